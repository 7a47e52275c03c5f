// Renders a TEMPLATE of Ollama's by Go's own text/template: JSON on stdin, a JSON list of texts on stdout.
//
// What the template is given has the names that Ollama gives it: template.Values, api.Message and api.Tool there.
package main

import (
	"encoding/json"
	"log"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role      string
	Content   string
	Thinking  string
	ToolCalls []struct {
		Function struct {
			Name      string
			Arguments map[string]any
		}
	} `json:"tool_calls"`
}

type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string         `json:"name"`
		Description string         `json:"description,omitempty"`
		Parameters  map[string]any `json:"parameters"`
	} `json:"function"`
}

type scene struct {
	Messages []*message
	Tools    []tool
	Think    *bool
}

func toJSON(value any) string {
	text, _ := json.Marshal(value)
	return string(text)
}

func main() {
	var input struct {
		Template string
		Scenes   []scene
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		log.Fatal(err)
	}
	functions := template.FuncMap{"json": toJSON}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(input.Template)
	if err != nil {
		log.Fatal(err)
	}
	var texts []string
	for _, s := range input.Scenes {
		values := map[string]any{
			"Messages":   s.Messages,
			"Tools":      s.Tools,
			"Think":      s.Think != nil && *s.Think,
			"IsThinkSet": s.Think != nil,
			"Response":   "",
		}
		var text strings.Builder
		if err := parsed.Execute(&text, values); err != nil {
			log.Fatal(err)
		}
		texts = append(texts, text.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil {
		log.Fatal(err)
	}
}
