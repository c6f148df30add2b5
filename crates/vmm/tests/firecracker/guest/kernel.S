/* A PVH kernel for the tests: it says one line on the first serial port and then does what it was assembled to do.
   32-bit code, as PVH enters it, in a 64-bit ELF file, which is what Firecracker loads. */
    .section .note.pvh, "a", @note
    .long 4, 4, 18          /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start
    .text
    .code32
    .globl start
start:
    mov $text, %esi
    mov $0x3f8, %dx
1:  lodsb
    test %al, %al
    jz 2f
    out %al, %dx
    jmp 1b
2:
#ifdef RESET
    mov $0xfe, %al          /* the keyboard controller's reset line */
    out %al, $0x64
#endif
3:  pause
    jmp 3b
text:
    .asciz TEXT
