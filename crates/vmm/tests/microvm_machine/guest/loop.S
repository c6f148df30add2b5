/* A PVH kernel that says where it is on the first serial port and hangs: what a kernel does that dies too early for
   a console driver. */
    .section .note.pvh, "a", @note
    .long 4, 4, 18          /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start
    .text
    .globl start
start:
    mov $text, %esi
    mov $0x3f8, %dx
1:  lodsb
    test %al, %al
    jz 2f
    out %al, %dx
    jmp 1b
2:  jmp 2b
text:
    .asciz "early: stuck here\r\n"
