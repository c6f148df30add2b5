//! Traits of a host that make guests slow, or less apart from each other than they look.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pyro_vmm::kvm;

use super::kvm::{DEVICE, is_locked, locked_check};
use super::{Check, CheckStatus, check};
use crate::hint::Hint;
use crate::host::{self, CgroupVersion};

/// `KVM_CREATE_VM` costs less than a millisecond where nothing is wrong; tens where a worker thread is moved
/// between cgroups first.
const SLOW_CREATE_VM: Duration = Duration::from_millis(15);

/// All of them, for this host.
pub(super) fn checks() -> Vec<Check> {
    let mut checks = kvm_checks();
    checks.push(cgroup_check());
    checks.push(virtualisation(
        &read("/proc/cpuinfo"),
        Path::new("/sys/module/kvm_pvm").exists(),
        Path::new(DEVICE).exists(),
    ));
    checks.push(swap(&read("/proc/swaps")));
    checks.push(smt(&read("/sys/devices/system/cpu/smt/active")));
    checks.push(ksm(&read("/sys/kernel/mm/ksm/run")));
    checks
}

/// A file of the kernel's; empty where there is none.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Whether this host is a guest itself, and how its guests' page tables are kept.
fn virtualisation(cpuinfo: &str, page_tables_in_software: bool, has_kvm: bool) -> Check {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    if page_tables_in_software {
        return check(
            "virtualisation",
            CheckStatus::Warn,
            "KVM here is kvm_pvm, which keeps guests' page tables in software: it starts kernels and may never run \
             their programs"
                .into(),
            Some(Hint::plain("only a boot shows it: see the candidates above")),
        );
    }
    if !has("hypervisor") {
        return check("virtualisation", CheckStatus::Ok, "this is no virtual machine".into(), None);
    }
    let detail = match (has_kvm, has("vmx") || has("svm")) {
        (true, true) => {
            "this host is a virtual machine with nested virtualisation; each exit of a guest costs two"
        }
        (true, false) => {
            "this host is a virtual machine that offers KVM without the processor's virtualisation: only a boot shows \
             what it is worth"
        }
        (false, _) => "this host is a virtual machine without nested virtualisation",
    };
    check("virtualisation", CheckStatus::Warn, detail.into(), None)
}

fn swap(swaps: &str) -> Check {
    let names: Vec<_> = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    if names.is_empty() {
        return check("swap", CheckStatus::Ok, "none: guests' memory stays in memory".into(), None);
    }
    check(
        "swap",
        CheckStatus::Warn,
        format!("{}: what guests hold in memory may be written there", names.join(", ")),
        Some(Hint::plain("swapoff -a, or encrypt it")),
    )
}

fn smt(active: &str) -> Check {
    if active.trim() != "1" {
        return check(
            "smt",
            CheckStatus::Ok,
            "no two guests share a processor core at the same moment".into(),
            None,
        );
    }
    check(
        "smt",
        CheckStatus::Warn,
        "two guests may run on one core at the same moment, and learn of each other through it".into(),
        Some(Hint::plain("where guests must not, boot the host with nosmt")),
    )
}

fn ksm(run: &str) -> Check {
    if run.trim() != "1" {
        return check("ksm", CheckStatus::Ok, "equal pages of different guests are not merged".into(), None);
    }
    check(
        "ksm",
        CheckStatus::Warn,
        "the kernel merges equal pages of processes that ask for it; a guest can tell what others hold"
            .into(),
        Some(Hint::plain("echo 2 > /sys/kernel/mm/ksm/run")),
    )
}

fn kvm_checks() -> Vec<Check> {
    let access = host::access(DEVICE);
    if is_locked(access) {
        return vec![locked_check()];
    }
    if !access.exists {
        return Vec::new();
    }
    vec![match kvm::create_vm_cost() {
        Ok(cost) if cost < SLOW_CREATE_VM => check(
            "kvm",
            CheckStatus::Ok,
            format!("KVM_CREATE_VM takes {:.1} ms", cost.as_secs_f64() * 1e3),
            None,
        ),
        Ok(cost) => check(
            "kvm",
            CheckStatus::Warn,
            format!(
                "KVM_CREATE_VM takes {:.1} ms, which every start under KVM pays",
                cost.as_secs_f64() * 1e3
            ),
            Some(Hint::plain(
                "remount the cgroup v2 hierarchy with favordynmods, or set kvm.nx_huge_pages=never (on CPUs without the ITLB multihit defect)",
            )),
        ),
        Err(error) => check("kvm", CheckStatus::Warn, format!("KVM_CREATE_VM fails: {error}"), None),
    }]
}

fn cgroup_check() -> Check {
    match host::cgroup_version() {
        CgroupVersion::V2 => check("cgroup", CheckStatus::Ok, "version 2".into(), None),
        CgroupVersion::V1 => {
            check("cgroup", CheckStatus::Ok, "version 1 controllers are mounted".into(), None)
        }
        CgroupVersion::None => check(
            "cgroup",
            CheckStatus::Warn,
            "no cgroup hierarchy is mounted".into(),
            Some(Hint::plain("mount -t cgroup2 none /sys/fs/cgroup")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        let of = |flags: &str, pvm, kvm| virtualisation(&format!("flags : fpu {flags} sse\n"), pvm, kvm);
        assert_eq!(of("svm", false, true).status, CheckStatus::Ok);
        assert!(of("hypervisor svm", false, true).detail.contains("nested virtualisation; each exit"));
        assert!(of("hypervisor", false, true).detail.contains("only a boot shows"));
        assert!(of("hypervisor", false, false).detail.contains("without nested"));
        assert!(of("hypervisor", true, true).detail.contains("kvm_pvm"));
    }

    #[test]
    fn what_guests_share_is_said() {
        let header = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(swap(header).status, CheckStatus::Ok);
        let some = swap(&format!("{header}/dev/sda2 partition 1000 0 -2\n/swapfile file 10 0 -3\n"));
        assert!(
            some.status == CheckStatus::Warn && some.detail.starts_with("/dev/sda2, /swapfile:"),
            "{some:?}"
        );
        assert_eq!(
            (smt("1\n").status, smt("0\n").status, smt("").status),
            (CheckStatus::Warn, CheckStatus::Ok, CheckStatus::Ok)
        );
        assert_eq!((ksm("1\n").status, ksm("0\n").status), (CheckStatus::Warn, CheckStatus::Ok));
    }
}
