/* PID 1 of the tests' guest: answers one line per line on the virtio-serial port `pyro`. A hang-up is no end. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_file(const char *path, char *to, int size) {
    int file = open(path, O_RDONLY);
    int n = file < 0 ? -1 : (int)read(file, to, size - 1);
    if (file >= 0) close(file);
    to[n < 0 ? 0 : n] = 0;
    return n;
}

/* The port's device, by the name the host gave it. */
static int open_port(void) {
    DIR *ports = opendir("/sys/class/virtio-ports");
    int port = -1;
    for (struct dirent *e; ports && port < 0 && (e = readdir(ports));) {
        char path[400], name[64];
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", e->d_name);
        if (read_file(path, name, sizeof name) > 0 && !strncmp(name, "pyro", 4)) {
            snprintf(path, sizeof path, "/dev/%s", e->d_name);
            port = open(path, O_RDWR);
        }
    }
    if (ports) closedir(ports);
    return port;
}

static int open_disk(int read_only) {
    char path[400], ro[8];
    for (char letter = 'a'; letter <= 'd'; letter++) {
        snprintf(path, sizeof path, "/sys/block/vd%c/ro", letter);
        if (read_file(path, ro, sizeof ro) > 0 && (ro[0] == '1') == read_only) {
            snprintf(path, sizeof path, "/dev/vd%c", letter);
            return open(path, read_only ? O_RDONLY : O_RDWR);
        }
    }
    return -1;
}

static int counter;

static void obey(const char *line, char *answer, int size) {
    int disk, n;
    if (!strcmp(line, "count")) {
        snprintf(answer, size, "%d", ++counter);
    } else if (!strcmp(line, "poweroff")) {
        reboot(RB_POWER_OFF);
    } else if (!strcmp(line, "reboot")) {
        reboot(RB_AUTOBOOT);
    } else if (!strcmp(line, "sysrq")) {
        int file = open("/proc/sysrq-trigger", O_WRONLY);
        write(file, "o", 1);
        snprintf(answer, size, "asked");
    } else if (!strcmp(line, "panic")) {
        _exit(3);
    } else if (!strcmp(line, "cmdline")) {
        n = read_file("/proc/cmdline", answer, size);
        if (n > 0) answer[n - 1] = 0;
    } else if (!strcmp(line, "cpus")) {
        snprintf(answer, size, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    } else if (!strcmp(line, "base")) {
        disk = open_disk(1);
        n = pread(disk, answer, 16, 0);
        answer[n < 0 ? 0 : n] = 0;
        close(disk);
    } else if (!strcmp(line, "scribble")) {
        disk = open_disk(0);
        n = pwrite(disk, "written by guest", 16, 4096);
        fsync(disk);
        close(disk);
        snprintf(answer, size, "%d", n);
    } else if (!strncmp(line, "touch ", 6)) { /* dirties that many MiB */
        int mib = 0;
        sscanf(line + 6, "%d", &mib);
        char *memory = sbrk((long)mib << 20);
        for (long at = 0; memory != (void *)-1 && at < (long)mib << 20; at += 4096) memory[at] = 1;
        snprintf(answer, size, "touched");
    } else {
        snprintf(answer, size, "%s", line);
    }
}

int main(void) {
    mount("dev", "/dev", "devtmpfs", 0, "");
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mount("proc", "/proc", "proc", 0, "");
    mount("sys", "/sys", "sysfs", 0, "");
    char line[256], answer[4096];
    int length = 0;
    for (int port = -1;;) {
        while (port < 0)
            if ((port = open_port()) < 0) usleep(1000); /* until the driver has probed the port */
        char byte;
        if (read(port, &byte, 1) != 1) { /* nobody there: read and poll return at once, so only time can be waited for */
            usleep(1000);
            continue;
        }
        if (byte != '\n') {
            if (length < (int)sizeof line - 1) line[length++] = byte;
            continue;
        }
        line[length] = 0;
        length = 0;
        answer[0] = 0;
        obey(line, answer, sizeof answer - 1);
        strcat(answer, "\n");
        write(port, answer, strlen(answer));
    }
}
