// MinGW's linkers export all that a library defines, what they add of the C library's start included: a library that
// is linked to another would then have two functions of that name.
__asm__(".section .drectve,\"yn\"\n\t.ascii \" -exclude-symbols:atexit\"\n\t.text\n");
