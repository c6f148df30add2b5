//! Why `/dev/kvm` may not be opened by this user, and what opens it: a group to join, where there is one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Check, CheckStatus, check};
use crate::hint::Hint;
use crate::host::Access;

pub(super) const DEVICE: &str = "/dev/kvm";

/// Owner, group and mode of a device's file.
#[derive(Clone, Copy, Debug)]
struct Device {
    gid: u32,
    mode: u32,
}

/// The asking process: its effective user, and all groups.
struct Caller {
    uid: u32,
    groups: Vec<u32>,
}

impl Device {
    fn of(path: &Path) -> io::Result<Self> {
        let stat = fs::metadata(path)?;
        Ok(Self { gid: stat.gid(), mode: stat.mode() & 0o777 })
    }

    /// Whether its group is there to be joined.
    fn is_for_its_group(self) -> bool {
        self.gid != 0 && self.mode & 0o060 == 0o060
    }
}

impl Caller {
    fn this() -> Self {
        let mut groups = rustix::process::getgroups().unwrap_or_default();
        groups.push(rustix::process::getegid());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
        }
    }
}

/// The check for a device that is there and may not be opened.
pub(super) fn locked_check() -> Check {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let detail = match Device::of(Path::new(DEVICE)) {
        Ok(device) => format!(
            "{DEVICE} may not be opened by this user (mode {:04o}, group {})",
            device.mode,
            group_name(&groups, device.gid).map_or_else(|| device.gid.to_string(), str::to_owned)
        ),
        Err(error) => format!("{DEVICE} may not be opened by this user: {error}"),
    };
    check("kvm", CheckStatus::Warn, detail, Some(Hint::plain(remedy())))
}

/// Advice by which this user may open the device.
pub(super) fn remedy() -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    match Device::of(Path::new(DEVICE)) {
        Ok(device) => remedy_for(device, &Caller::this(), &groups),
        Err(error) => format!("{DEVICE} cannot be looked at ({error}): see to it that it can"),
    }
}

/// `groups` is the text of `/etc/group`.
fn remedy_for(device: Device, caller: &Caller, groups: &str) -> String {
    let is_let_in = caller.uid == 0
        || device.mode & 0o006 == 0o006
        || device.is_for_its_group() && caller.groups.contains(&device.gid);
    if is_let_in {
        return format!(
            "its mode lets this user in, so a container or a sandbox keeps it shut: start that with the device \
             {DEVICE}"
        );
    }
    if !device.is_for_its_group() {
        return format!(
            "its mode lets only root in; for good: echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"' > \
             /etc/udev/rules.d/65-kvm.rules; until the next boot: chgrp kvm {DEVICE} && chmod 660 {DEVICE}; then \
             usermod -aG kvm $USER, and log in again"
        );
    }
    match group_name(groups, device.gid) {
        Some(name) => format!("usermod -aG {name} $USER, and log in again"),
        None => format!(
            "its group {0} has no name here: groupadd -g {0} kvm-host && usermod -aG kvm-host $USER, and log in again",
            device.gid
        ),
    }
}

/// The name of a group in the text of `/etc/group`.
fn group_name(groups: &str, gid: u32) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(gid) && !name.is_empty()).then_some(name)
    })
}

/// Whether the device is there, and shut.
pub(super) fn is_locked(access: Access) -> bool {
    access.exists && !(access.readable && access.writable)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const GROUPS: &str = "root:x:0:\nbroken\n:x:7:\nkvm:x:108:alice,bob\nvirt:x:993:\n";

    fn said(gid: u32, mode: u32, uid: u32, own: &[u32]) -> String {
        remedy_for(Device { gid, mode }, &Caller { uid, groups: own.to_vec() }, GROUPS)
    }

    #[test]
    fn the_group_to_join_is_named() {
        assert_eq!(said(108, 0o660, 1000, &[1000]), "usermod -aG kvm $USER, and log in again");
        assert_eq!(said(993, 0o660, 1000, &[1000, 108]), "usermod -aG virt $USER, and log in again");
        let nameless = said(555, 0o660, 1000, &[1000]);
        assert!(nameless.contains("group 555 has no name here: groupadd -g 555 "), "{nameless}");
    }

    #[test]
    fn a_device_for_root_alone_is_to_be_opened_first() {
        // Nobody else's group; a group that may not write; a group that may do nothing.
        for (gid, mode) in [(0, 0o600), (0, 0o660), (108, 0o640), (108, 0o600)] {
            let text = said(gid, mode, 1000, &[1000, 108]);
            assert!(text.contains("lets only root in") && text.contains("chmod 660 /dev/kvm"), "{text}");
            assert!(text.contains("udev") && text.contains("usermod -aG kvm $USER"), "{text}");
        }
    }

    #[test]
    fn who_may_open_it_and_cannot_is_in_a_container() {
        for (gid, mode, uid, own) in
            [(108, 0o660, 1000, &[1000, 108][..]), (0, 0o666, 1000, &[1000]), (0, 0o600, 0, &[0])]
        {
            let text = said(gid, mode, uid, own);
            assert!(text.contains("the device /dev/kvm") && !text.contains("usermod"), "{text}");
        }
    }

    #[test]
    fn the_file_tells_mode_and_group() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        let device = Device::of(file.path()).unwrap();
        assert_eq!((device.mode, device.gid), (0o640, fs::metadata(file.path()).unwrap().gid()));
        assert!(Device::of(Path::new("/nonexistent")).is_err());
        assert!(Caller::this().groups.contains(&rustix::process::getegid().as_raw()));
    }

    #[test]
    fn groups_are_found_by_number() {
        assert_eq!(group_name(GROUPS, 108), Some("kvm"));
        assert_eq!((group_name(GROUPS, 7), group_name("", 108)), (None, None));
    }

    #[test]
    fn only_a_device_that_is_there_is_locked() {
        let access = |exists, readable, writable| Access { exists, readable, writable };
        assert!(is_locked(access(true, true, false)) && is_locked(access(true, false, false)));
        assert!(!is_locked(access(false, false, false)) && !is_locked(access(true, true, true)));
    }
}
