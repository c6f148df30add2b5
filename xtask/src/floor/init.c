/* PID 1 of the floor, the least guest that can be measured: it says ready on the virtio-serial port, then answers every
   line with itself. A line that begins with "run" first starts a program and waits for its end. A hang-up is no end. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char path[300] = "", line[256];
    if (argc > 1 && !strcmp(argv[1], "true")) return 0;
    mount("dev", "/dev", "devtmpfs", 0, "");
    for (int port = -1;;) {
        while (port < 0) {
            DIR *dev = opendir("/dev");
            for (struct dirent *e; dev && (e = readdir(dev));)
                if (!strncmp(e->d_name, "vport", 5)) {
                    strcpy(path, "/dev/");
                    strcat(path, e->d_name);
                }
            if (dev) closedir(dev);
            if (path[0] && (port = open(path, O_RDWR)) >= 0) (void)!write(port, "ready\n", 6);
            else usleep(1000);
        }
        for (ssize_t n;;) {
            if ((n = read(port, line, sizeof line)) <= 0) {
                usleep(1000);
                continue;
            }
            if (n >= 3 && !strncmp(line, "run", 3)) {
                pid_t child = vfork();
                if (child == 0) {
                    execl("/init", "init", "true", (char *)0);
                    _exit(1);
                }
                int status = 1;
                waitpid(child, &status, 0);
                if (status != 0) line[0] = '!';
            }
            (void)!write(port, line, n);
        }
    }
}
