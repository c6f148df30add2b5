/* PID 1 of a guest whose user space runs: answers one line per line on vsock port 52, one connection after another, and
   each answer is the next number. Its first words on the console tell a guest that got here from one that never did. */
#include <linux/vm_sockets.h>
#include <sys/socket.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_vm all = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 52};
    puts("init runs");
    fflush(stdout);
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&all, sizeof all) || listen(listener, 8)) return 3;
    for (int count = 0;;) {
        int peer = accept(listener, 0, 0);
        char byte, answer[32];
        while (peer >= 0 && read(peer, &byte, 1) == 1)
            if (byte == '\n' && write(peer, answer, snprintf(answer, sizeof answer, "%d\n", ++count)) < 0) break;
        if (peer >= 0) close(peer);
    }
}
