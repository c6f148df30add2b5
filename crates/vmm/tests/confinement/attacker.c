/*
 * What runs in the VMM's place: a program with all the rights of a VMM that was taken over, which tries what it must not
 * be able to do. Says one line for each on standard error: "held NAME", or "ESCAPED NAME".
 *
 * Compiled by the tests with the places to attack: SECRET and OPEN_FILE (files of the user's), DISK (another machine's),
 * OTHER (its VMM's process id), TESTER (the test's own), TCP_PORT, ABSTRACT and SOCKET (listening sockets), THREADS (the
 * most that may be had), FILTERED (whether there is a filter of system calls), SOCKETS (whether it
 * may make Unix sockets to be called on, as a Firecracker does), KVM (whether it was promised /dev/kvm).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void verdict(const char *name, int escaped) {
    dprintf(2, "%s %s\n", escaped ? "ESCAPED" : "held", name);
}

static int can_open(const char *path, int flags) {
    int fd = open(path, flags, 0666);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static int can_connect(int family, const struct sockaddr *address, socklen_t length) {
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0) return 0;
    int done = connect(fd, address, length) == 0;
    close(fd);
    return done;
}

static int connects_unix(const char *name, int abstract) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t at = abstract ? 1 : 0;
    strncpy(address.sun_path + at, name, sizeof address.sun_path - 1 - at);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + at + strlen(name) + (abstract ? 0 : 1);
    return can_connect(AF_UNIX, (struct sockaddr *)&address, length);
}

static int connects_tcp(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(TCP_PORT)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return can_connect(AF_INET, (struct sockaddr *)&address, sizeof address);
}

static int sends_udp(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(TCP_PORT)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    return fd >= 0 && sendto(fd, "x", 1, 0, (struct sockaddr *)&address, sizeof address) == 1;
}

static int has_socket(int family, int type) { return socket(family, type, 0) >= 0; }

static int sees_process(int pid) {
    char path[64];
    struct stat stat_of_it;
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    return stat(path, &stat_of_it) == 0 && pid != getpid();
}

static int reads_memory_of(int pid) {
    char byte;
    struct iovec ours = {&byte, 1}, theirs = {(void *)0x400000, 1};
    return process_vm_readv(pid, &ours, 1, &theirs, 1, 0) == 1;
}

/* How many processes can be had beside this one. */
static int forks(void) {
    int count = 0, children[4096];
    while (count < 4096) {
        int child = fork();
        if (child < 0) break;
        if (child == 0) {
            pause();
            _exit(0);
        }
        children[count++] = child;
    }
    for (int at = 0; at < count; at++) kill(children[at], SIGKILL), syscall(SYS_tgkill, children[at], children[at], SIGKILL);
    return count;
}

/* Whether another process can have so many bytes of memory. It is a child: what limits memory may kill for it. */
static int can_use(size_t bytes, int kind) {
    int child = fork(), status = 0;
    if (child < 0) return 0;
    if (child == 0) {
        char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) _exit(1);
        for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int is_listed(const char *name) {
    const char *expected[] = {".", "..", "bin", "dev", "etc", "gnu", "lib", "lib32", "lib64", "libx32", "nix", "proc", "sbin",
        "tmp", "usr", "vm", "opt",
        /* A jailer's. */
        "api.sock", "attacker", "base.ext4", "disk.ext4", "firecracker", "firecracker.pid", "initramfs", "kernel", "log", "run",
        "v.sock"};
    for (size_t at = 0; at < sizeof expected / sizeof *expected; at++)
        if (strcmp(name, expected[at]) == 0) return 1;
    return 0;
}

static int root_is_the_hosts(void) {
    DIR *root = opendir("/");
    struct dirent *entry;
    int strange = 0;
    while (root && (entry = readdir(root))) strange += !is_listed(entry->d_name);
    return strange > 0;
}

/* Whether a namespace comes with a new process; both ways to ask for one. */
static int clones_into_namespace(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    if (child > 0) return 1;
    unsigned long long arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0) _exit(0);
    return child > 0;
}

/* What can be done to the files that were handed over, the shared ones among them; nothing here does harm. */
static void attack_inherited(void) {
    int reopened = 0, changed = 0, cut = 0, above = 0;
    for (int fd = 3; fd < 1024; fd++) {
        char path[64];
        struct stat file;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        above += openat(fd, "..", O_RDONLY | O_DIRECTORY) >= 0;
        if (fstat(fd, &file) < 0 || !S_ISREG(file.st_mode)) continue;
        changed += fchmod(fd, file.st_mode & 07777) == 0 || chmod(path, file.st_mode & 07777) == 0;
        changed += utimensat(AT_FDCWD, path, 0, 0) == 0;
        if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY) continue;
        reopened += open(path, O_WRONLY) >= 0 || open(path, O_RDWR) >= 0;
        cut += truncate(path, file.st_size) == 0 || open(path, O_ACCMODE) >= 0;
        if (file.st_size < 64) cut += open(path, O_RDONLY | O_TRUNC) >= 0;
    }
    verdict("directory-above", above);
    verdict("reopened-for-writing", reopened);
    verdict("cut-through-another-name", cut);
    if (FILTERED) verdict("mode-of-a-file", changed);
}

int main(void) {
    char path[512];
    attack_inherited();
    verdict("open-file", can_open(OPEN_FILE, O_RDONLY));
    verdict("secret", can_open(SECRET, O_RDONLY));
    verdict("disk-of-another", can_open(DISK, O_RDONLY) || can_open(DISK, O_WRONLY));
    snprintf(path, sizeof path, "/proc/%d/root%s", TESTER, OPEN_FILE);
    verdict("root-of-another-process", can_open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/environ", TESTER);
    verdict("environment-of-another-process", can_open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/mem", OTHER);
    verdict("memory-file-of-another", can_open(path, O_RDONLY));
    verdict("accounts", can_open("/etc/passwd", O_RDONLY));
    verdict("root-directory", root_is_the_hosts());
    verdict("new-file", can_open("/usr/new", O_WRONLY | O_CREAT) || can_open("/tmp/new", O_WRONLY | O_CREAT) ||
                            can_open("/dev/shm/new", O_WRONLY | O_CREAT));
    /* A jailer makes the root directory the VMM's own. A Firecracker has a directory for its sockets and saves. */
    if (FILTERED) verdict("new-file-in-root", can_open("/new", O_WRONLY | O_CREAT));

    verdict("tcp", connects_tcp());
    verdict("udp", sends_udp());
    verdict("abstract-socket", connects_unix(ABSTRACT, 1));
    verdict("unix-socket", connects_unix(SOCKET, 0));
    verdict("raw-socket", has_socket(AF_PACKET, SOCK_RAW) || has_socket(AF_INET, SOCK_RAW));
    /* There are no namespaces for these: only the filters keep them away. */
    if (FILTERED) verdict("vsock", has_socket(AF_VSOCK, SOCK_STREAM));

    verdict("signal", kill(TESTER, 0) == 0 || kill(OTHER, 0) == 0 || syscall(SYS_tgkill, TESTER, TESTER, 0) == 0);
    verdict("signal-all", kill(-1, 0) == 0);
    verdict("trace", ptrace(PTRACE_ATTACH, TESTER, 0, 0) == 0 || ptrace(PTRACE_SEIZE, OTHER, 0, 0) == 0);
    verdict("memory-of-another", reads_memory_of(TESTER) || reads_memory_of(OTHER));
    verdict("other-processes", sees_process(TESTER) || sees_process(OTHER));
    verdict("priority", setpriority(PRIO_PROCESS, TESTER, 19) == 0);

    verdict("root-user", setuid(0) == 0 && getuid() == 0);
    verdict("mount", mount("none", "/proc", "tmpfs", 0, "") == 0);
    verdict("device", mknod("/dev/disk", S_IFBLK | 0600, 0x800) == 0);
    verdict("remount", mount("none", "/", 0, MS_REMOUNT | MS_BIND, "") == 0);
    if (FILTERED) verdict("namespace", unshare(CLONE_NEWUSER) == 0);
    if (FILTERED) {
        verdict("namespace-of-a-child", clones_into_namespace());
        verdict("outliving-its-owner", prctl(PR_SET_PDEATHSIG, 0) == 0);
        /* Memory that no limit of address space or data counts. */
        if (!SOCKETS) verdict("memory-file", syscall(SYS_memfd_create, "x", 0) >= 0);
        verdict("memory-segment", syscall(SYS_shmget, 0, 4096, 0600 | 01000) >= 0);
        /* What a directory of one's own hides, should there be none. */
        int socket_of_own = socket(AF_UNIX, SOCK_STREAM, 0), refused = errno;
        if (socket_of_own >= 0) connect(socket_of_own, (struct sockaddr *)&(struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = "/x"}, sizeof(struct sockaddr_un)), refused = errno;
        if (SOCKETS) verdict("socket-of-ones-own-refused", socket_of_own < 0);
        verdict("any-socket", refused != EPERM);
        verdict("datagram-socket", socket(AF_UNIX, SOCK_DGRAM, 0) >= 0);
        verdict("limits-of-another", syscall(SYS_prlimit64, getpid(), RLIMIT_CPU, 0, &(struct rlimit){0}) == 0);
    }
    verdict("limits", setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 20, 1 << 20}) == 0);

    verdict("memory", can_use(2ul << 30, MAP_PRIVATE));
    verdict("shared-memory", can_use(6ul << 30, MAP_SHARED));

    if (KVM) dprintf(2, "kvm %d\n", can_open("/dev/kvm", O_RDWR));
    int had = forks();
    verdict("fork", had > THREADS);
    dprintf(2, "forks %d\n", had);
    return 3;
}
