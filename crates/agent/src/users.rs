//! Users and groups of the guest, read from `/etc/passwd` and `/etc/group` by hand: a static program cannot load NSS
//! modules, and user databases beyond these files are the image's own affair.

use std::io::Read;

use pyro_proto::message::{Failure, FailureKind};

use crate::failure::refusal;

/// Longest database that is read, in bytes.
const LIMIT: u64 = 8 * 1024 * 1024;

/// Account that a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric id of the primary group.
    pub gid: u32,
    /// Numeric ids of the supplementary groups.
    pub groups: Vec<u32>,
    /// Login name, or the number where it has none.
    pub name: Vec<u8>,
    /// Path of the home directory.
    pub home: Vec<u8>,
    /// Path of the login shell.
    pub shell: Vec<u8>,
}

/// Account that the agent itself runs under: root in a guest.
pub fn own() -> Account {
    let uid = rustix::process::getuid().as_raw();
    if uid == 0 {
        return Account {
            uid,
            gid: 0,
            groups: Vec::new(),
            name: b"root".to_vec(),
            home: b"/root".to_vec(),
            shell: b"/bin/sh".to_vec(),
        };
    }
    let gid = rustix::process::getgid().as_raw();
    read("/etc/passwd")
        .ok()
        .and_then(|users| find_user(&users, uid.to_string().as_bytes()))
        .unwrap_or(Account { gid, ..nameless(uid) })
}

/// Looks up the account that `spec` names: a user's name or number, optionally `:` and a group's.
///
/// A number need not be in the database. With a group, the supplementary groups are left out.
pub fn resolve(spec: &str) -> Result<Account, Failure> {
    let users = read("/etc/passwd")?;
    let groups = read("/etc/group")?;
    lookup(spec, &users, &groups)
}

fn lookup(spec: &str, users: &[u8], groups: &[u8]) -> Result<Account, Failure> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let no_user = || refusal(FailureKind::NoSuchUser, "user", format!("no user {user:?} in the guest"));
    if user.is_empty() || user.contains(['\n', '\0']) {
        return Err(no_user());
    }
    let mut account = match (find_user(users, user.as_bytes()), user.parse()) {
        (Some(account), _) => account,
        (None, Ok(uid)) if uid != u32::MAX => nameless(uid),
        (None, _) => return Err(no_user()),
    };
    match group {
        Some(group) => {
            let found = lines(groups).find(|fields| fields.first() == Some(&group.as_bytes()));
            account.gid = found
                .and_then(|fields| number(fields.get(2)))
                .or_else(|| group.parse().ok().filter(|gid| *gid != u32::MAX))
                .ok_or_else(|| {
                    refusal(FailureKind::NoSuchUser, "user", format!("no group {group:?} in the guest"))
                })?;
        }
        None => {
            let member = |fields: &Vec<&[u8]>| {
                fields
                    .get(3)
                    .is_some_and(|members| members.split(|b| *b == b',').any(|name| name == account.name))
            };
            account.groups =
                lines(groups).filter(member).filter_map(|fields| number(fields.get(2))).collect();
            account.groups.retain(|gid| *gid != account.gid);
            account.groups.sort_unstable();
            account.groups.dedup();
            // NGROUPS_MAX.
            account.groups.truncate(65_536);
        }
    }
    Ok(account)
}

fn nameless(uid: u32) -> Account {
    Account {
        uid,
        gid: 0,
        groups: Vec::new(),
        name: uid.to_string().into_bytes(),
        home: b"/".to_vec(),
        shell: b"/bin/sh".to_vec(),
    }
}

/// Finds a user by name, else by number.
fn find_user(users: &[u8], user: &[u8]) -> Option<Account> {
    let by = |field: usize| lines(users).find(|fields| fields.len() >= 7 && fields.get(field) == Some(&user));
    let fields = by(0).or_else(|| by(2))?;
    let or = |field: usize, default: &[u8]| match fields.get(field) {
        Some(value) if !value.is_empty() => value.to_vec(),
        _ => default.to_vec(),
    };
    Some(Account {
        uid: number(fields.get(2))?,
        gid: number(fields.get(3))?,
        groups: Vec::new(),
        name: or(0, b""),
        home: or(5, b"/"),
        shell: or(6, b"/bin/sh"),
    })
}

fn lines(database: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    database.split(|b| *b == b'\n').map(|line| line.split(|b| *b == b':').collect())
}

fn number(field: Option<&&[u8]>) -> Option<u32> {
    std::str::from_utf8(field?).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

/// Reads a database; one that does not exist is empty, since the smallest images have none.
fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(bytes),
        Err(error) => Err(Failure {
            kind: FailureKind::Internal,
            stage: "user".to_owned(),
            errno: error.raw_os_error(),
            message: format!("{path}: {}", error.kind()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\nada:x:1000:100::/home/ada:\n12:x:77:77::/:/bin/sh\nbroken\n";
    const GROUPS: &[u8] = b"root:x:0:\nusers:x:100:ada\nsudo:x:27:bob,ada\naudio:x:29:ad,adax\n";

    #[test]
    fn names_numbers_and_groups() {
        let ada = lookup("ada", USERS, GROUPS).unwrap();
        assert_eq!((ada.uid, ada.gid, &ada.groups[..]), (1000, 100, &[27][..]));
        assert_eq!((&ada.home[..], &ada.shell[..]), (&b"/home/ada"[..], &b"/bin/sh"[..]));
        assert_eq!(lookup("1000", USERS, GROUPS).unwrap(), ada);
        let other = lookup("ada:sudo", USERS, GROUPS).unwrap();
        assert_eq!((other.gid, other.groups), (27, vec![]));
        assert_eq!(lookup("ada:4242", USERS, GROUPS).unwrap().gid, 4242);
        // A name that looks like a number is a name first.
        assert_eq!(lookup("12", USERS, GROUPS).unwrap().uid, 77);
        let nobody = lookup("4000", USERS, GROUPS).unwrap();
        assert_eq!((nobody.uid, nobody.gid, &nobody.name[..]), (4000, 0, &b"4000"[..]));
    }

    #[test]
    fn unknown_ones_are_refused() {
        for spec in
            ["eve", "", ":root", "ada:eve", "ada:", "4294967295", "-1", "broken", "ada:4294967295", "a\nb"]
        {
            assert_eq!(lookup(spec, USERS, GROUPS).unwrap_err().kind, FailureKind::NoSuchUser, "{spec:?}");
        }
    }
}
