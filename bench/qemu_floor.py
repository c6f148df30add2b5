#!/usr/bin/env python3
"""The floor under every start: the least a guest needs to boot, and to be restored, under QEMU's microvm machine.

No product code takes part: a stock QEMU, one kernel, and a static init in C that answers each line it reads on a
virtio-serial port. What the product adds on top is its own cost, so measure both in one run and quote the ratio.

    qemu_floor.py VMLINUX [--accel tcg|kvm] [--mem MIB] [--runs N]

Prints one JSON object, times in seconds: cold (spawn to first answer; the median of N), colds (all of them), save
(stop and write device state), restore (spawn to first answer from the saved state; the median of N), restores (all of
them), pss_mib (the process's proportional set size then).
Needs qemu-system-x86_64, cc and cpio on the PATH. Starts nothing that it does not also end.
"""
import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

INIT = r"""
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
/* PID 1: wait for the virtio-serial port, say ready, then answer every line with itself; a hang-up is no end. */
int main(void) {
    char path[64] = "", line[256];
    mount("dev", "/dev", "devtmpfs", 0, "");
    for (int port = -1;;) {
        while (port < 0) {
            DIR *dev = opendir("/dev");
            for (struct dirent *e; dev && (e = readdir(dev));)
                if (!strncmp(e->d_name, "vport", 5)) { strcpy(path, "/dev/"); strcat(path, e->d_name); }
            if (dev) closedir(dev);
            if (path[0] && (port = open(path, O_RDWR)) >= 0) write(port, "ready\n", 6);
            else usleep(1000);
        }
        for (ssize_t n;;) {
            if ((n = read(port, line, sizeof line)) > 0) write(port, line, n);
            else usleep(1000);
        }
    }
}
"""


def tsc_khz():
    """The TSC's frequency in kHz, measured against CLOCK_MONOTONIC_RAW ("cpu MHz" in /proc/cpuinfo is the current clock on bare metal)."""
    source = r"""
    #include <stdio.h>
    #include <time.h>
    #include <x86intrin.h>
    static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC_RAW, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
    int main(void) { double a = now(); unsigned long long b = __rdtsc(); while (now() - a < 5e7); double c = now();
                     printf("%.0f", (__rdtsc() - b) / (c - a) * 1e6); return 0; }
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cc", "-O1", "-x", "c", "-", "-o", f"{folder}/tsc"], input=source.encode(), check=True)
        return int(subprocess.run([f"{folder}/tsc"], capture_output=True, check=True).stdout)


def initramfs(folder):
    """A newc archive with INIT, compiled statically, as its only program; returns its path."""
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "dev"))
    subprocess.run(["cc", "-static", "-Os", "-x", "c", "-", "-o", os.path.join(root, "init")], input=INIT.encode(),
                   stderr=subprocess.DEVNULL, check=True)
    path = os.path.join(folder, "init.cpio")
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with open(path, "wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc"], cwd=root, input=names, stdout=out, stderr=subprocess.DEVNULL, check=True)
    return path


# Under TCG the guest's own calibration of its clock against the PIT fails when the host is busy or its RAM file is slow
# to fault in, and the boot hangs: it is told the frequency instead.
KERNEL_LINE = f"quiet panic=-1 tsc_early_khz={tsc_khz()}"
# thread=multi is not a choice of speed: with one TCG thread the guest cannot calibrate its clock and hangs
# tb-size bounds the translation cache: left alone it grows past 1 GiB after a few hundred commands. Without -erms the guest kernel
# copies by rep movsb, a byte at a time under TCG: 200 instead of 900 MB/s.
ACCEL = {"tcg": "tcg,thread=multi,tb-size=64", "kvm": "kvm"}
CPU = {"tcg": "max,-erms", "kvm": "host"}


class Vm:
    """One QEMU process with its QMP socket and its virtio-serial port."""

    def __init__(self, folder, tag, args, share, incoming):
        self.qmp_path, self.port_path = (os.path.join(folder, f"{tag}.{end}") for end in ("qmp", "port"))
        for path in (self.qmp_path, self.port_path):
            if os.path.exists(path):
                os.unlink(path)
        command = [
            "qemu-system-x86_64", "-accel", ACCEL[args.accel], "-cpu", CPU[args.accel], "-m", str(args.mem),
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "null",
            "-object", f"memory-backend-file,id=ram,size={args.mem}M,mem-path={folder}/ram,share={share}",
            "-machine", "microvm,rtc=on,pit=on,pic=on,isa-serial=off,memory-backend=ram",
            "-kernel", args.vmlinux, "-initrd", os.path.join(folder, "init.cpio"), "-append", KERNEL_LINE,
            "-device", "virtio-serial-device", "-chardev", f"socket,id=c,path={self.port_path},server=on,wait=off",
            "-device", "virtserialport,chardev=c,name=floor", "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
        ] + (["-incoming", "defer"] if incoming else [])
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.qmp = None

    @staticmethod
    def _connect(path, deadline=60):
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            try:
                link = socket.socket(socket.AF_UNIX)
                link.connect(path)
                return link.makefile("rw")
            except OSError:
                time.sleep(0.001)
        raise TimeoutError(path)

    def port(self):
        return self._connect(self.port_path)

    def command(self, name, **arguments):
        if self.qmp is None:
            self.qmp = self._connect(self.qmp_path)
            self.qmp.readline()
            self.command("qmp_capabilities")
        self.qmp.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.qmp.flush()
        while True:
            answer = json.loads(self.qmp.readline())
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def migrated(self):
        while True:
            status = self.command("query-migrate").get("status")
            if status == "completed":
                return
            if status == "failed":
                raise RuntimeError("migration failed")
            time.sleep(0.001)

    def ignore_ram(self):
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def pss_mib(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as rollup:
            return next(int(line.split()[1]) // 1024 for line in rollup if line.startswith("Pss:"))

    def end(self):
        self.process.kill()
        self.process.wait()


def ask(port):
    port.write("ping\n")
    port.flush()
    return port.readline()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vmlinux")
    parser.add_argument("--accel", default="tcg", choices=("tcg", "kvm"))
    parser.add_argument("--mem", type=int, default=1024, help="MiB")
    parser.add_argument("--runs", type=int, default=9, help="cold boots, and restores")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="floor-")
    vms = []
    try:
        initramfs(folder)
        colds = []
        for run in range(args.runs):
            begin = time.monotonic()
            vm = Vm(folder, f"cold{run}", args, "on", False)
            vms.append(vm)
            port = vm.port()
            port.readline()
            ask(port)
            colds.append(time.monotonic() - begin)
            if run < args.runs - 1:  # the last one is saved
                port.close()
                vm.end()
                os.unlink(f"{folder}/ram")
        port.close()
        vm.command("query-status")
        begin = time.monotonic()
        vm.command("stop")
        vm.ignore_ram()
        vm.command("migrate", uri=f"exec:cat > {folder}/state")
        vm.migrated()
        save = time.monotonic() - begin
        vm.end()
        restores = []
        for run in range(args.runs):
            begin = time.monotonic()
            vm = Vm(folder, f"restore{run}", args, "off", True)
            vms.append(vm)
            vm.ignore_ram()
            vm.command("migrate-incoming", uri=f"exec:cat {folder}/state")
            vm.migrated()
            vm.command("cont")
            if ask(vm.port()) != "ping\n":
                raise RuntimeError("the restored guest started anew")
            restores.append(time.monotonic() - begin)
            pss = vm.pss_mib()
            vm.end()
        print(json.dumps({"accel": args.accel, "mem_mib": args.mem, "cold": round(statistics.median(colds), 4),
                          "colds": [round(x, 4) for x in colds], "save": round(save, 4),
                          "restore": round(statistics.median(restores), 4), "restores": [round(x, 4) for x in restores], "pss_mib": pss}))
    finally:
        for vm in vms:
            vm.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
