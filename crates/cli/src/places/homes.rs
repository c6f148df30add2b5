//! Home directories of the people that this process may stand for.
//!
//! `HOME` alone does not tell: a service has none, and under `sudo` or `su` it is another person's, or still the first one's.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use nix::unistd::{Uid, User};

/// User as the environment and the kernel name one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Number of the user.
    Id(u32),
    /// Login name.
    Name(String),
}

/// What is known of the people: a value for each question, so that a test can give its own.
pub(super) struct Sources<'a> {
    /// Value of an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Home directory of a user, as the user database has it.
    pub user: &'a dyn Fn(&Who) -> Option<PathBuf>,
    /// Users that this process runs as.
    pub runs_as: Vec<u32>,
    /// User that logged in, which `su` and `sudo` do not change, as in `/proc/self/loginuid`.
    pub login: Option<String>,
    /// Owner of the working directory.
    pub owner: Option<u32>,
}

/// Variables in which `sudo`, `doas` and `pkexec` leave who called them.
const CALLERS: [&str; 4] = ["SUDO_UID", "SUDO_USER", "DOAS_USER", "PKEXEC_UID"];

/// Number that stands for "nobody has logged in".
const NO_LOGIN: u32 = u32::MAX;

/// Home directories of the user, of who became that user with `sudo` or the like, and of the owner of the working directory.
/// None at all when the user's own cannot be told.
pub(super) fn of(sources: &Sources<'_>) -> Vec<PathBuf> {
    let variable = |name: &str| (sources.variable)(name).filter(|value| !value.is_empty());
    let mut homes: Vec<PathBuf> = variable("HOME").map(PathBuf::from).into_iter().collect();
    homes.extend(sources.runs_as.iter().filter_map(|id| (sources.user)(&Who::Id(*id))));
    if homes.is_empty() {
        return homes;
    }
    homes.extend(variable("SUDO_HOME").map(PathBuf::from));
    let callers = CALLERS.iter().filter_map(|name| variable(name)).filter_map(|value| who(&value));
    let login = sources.login.as_deref().and_then(|text| who(OsStr::new(text.trim())));
    let others = callers.chain(login).chain(sources.owner.map(Who::Id));
    homes.extend(others.filter(|who| *who != Who::Id(NO_LOGIN)).filter_map(|who| (sources.user)(&who)));
    homes
}

fn who(value: &OsStr) -> Option<Who> {
    let text = value.to_str()?;
    Some(text.parse().map_or_else(|_| Who::Name(text.to_owned()), Who::Id))
}

/// Home directory of a user, by way of the system's own lookup: a file, a directory service, or what it is set up to ask.
pub(super) fn in_database(who: &Who) -> Option<PathBuf> {
    let found = match who {
        Who::Id(id) => User::from_uid(Uid::from_raw(*id)),
        Who::Name(name) => User::from_name(name),
    };
    found.ok().flatten().map(|user| user.dir).filter(|dir| dir.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Homes where the user database has these, as a process of `runs_as` finds them.
    fn found(variables: &[(&str, &str)], runs_as: u32, login: &str, owner: u32) -> Vec<String> {
        let database = |who: &Who| {
            let name = match who {
                Who::Id(0) => "/root",
                Who::Id(1000) => "/home/ann",
                Who::Id(1001) => "/home/bob",
                Who::Name(name) if name == "ann" => "/home/ann",
                _ => return None,
            };
            Some(PathBuf::from(name))
        };
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        let sources = Sources {
            variable: &variable,
            user: &database,
            runs_as: vec![runs_as, runs_as],
            login: Some(format!("{login}\n")).filter(|_| !login.is_empty()),
            owner: Some(owner),
        };
        let mut homes: Vec<String> = of(&sources).iter().map(|home| home.display().to_string()).collect();
        homes.sort();
        homes.dedup();
        homes
    }

    #[test]
    fn a_home_is_found_whatever_home_says() {
        for variables in [vec![], vec![("HOME", "")], vec![("HOME", "/root")]] {
            assert_eq!(found(&variables, 0, "4294967295", 0), ["/root"], "{variables:?}");
        }
        assert_eq!(found(&[("HOME", "/elsewhere")], 0, "", 0), ["/elsewhere", "/root"]);
    }

    #[test]
    fn whoever_became_another_user_keeps_his_home() {
        for caller in [
            ("SUDO_UID", "1000"),
            ("SUDO_USER", "ann"),
            ("SUDO_HOME", "/home/ann"),
            ("DOAS_USER", "ann"),
            ("PKEXEC_UID", "1000"),
        ] {
            assert_eq!(found(&[caller], 0, "", 0), ["/home/ann", "/root"], "{caller:?}");
        }
        // `su` leaves nothing in the environment; the kernel knows who logged in, and whose the directory is.
        assert_eq!(found(&[("HOME", "/root")], 0, "1000", 0), ["/home/ann", "/root"]);
        assert_eq!(found(&[("HOME", "/root")], 0, "", 1001), ["/home/bob", "/root"]);
    }

    #[test]
    fn somebody_elses_home_does_not_stand_for_ones_own() {
        assert!(found(&[("SUDO_UID", "1000")], 4711, "1000", 0).is_empty());
        assert_eq!(found(&[("HOME", "/srv/app")], 4711, "", 4711), ["/srv/app"]);
    }

    #[test]
    fn a_name_that_is_none_finds_nobody() {
        for value in ["-1", "4294967295", "99999999999", "ann\u{1}", "../ann"] {
            assert_eq!(
                found(&[("SUDO_UID", value), ("DOAS_USER", value)], 0, value, 0),
                ["/root"],
                "{value}"
            );
        }
    }

    #[test]
    fn the_database_of_this_host_knows_root() {
        assert_eq!(in_database(&Who::Id(0)), in_database(&Who::Name("root".into())));
        assert!(in_database(&Who::Id(0)).is_some());
        assert_eq!(in_database(&Who::Name("no-such-user-here".into())), None);
        assert_eq!(in_database(&Who::Name("a\0b".into())), None);
    }
}
