//! A request, checked and turned into arguments of the kernel; pure but for reading the user database.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use pyro_proto::message::{Bytes, ExecRequest, ExecStdio, Failure, FailureKind};

use crate::failure::refusal;
use crate::users::{self, Account};

/// The search path of a command that sets none.
pub const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where commands start, when it exists.
pub const WORKSPACE: &[u8] = b"/workspace";

/// Command as the kernel takes it.
#[derive(Debug)]
pub struct SpawnPlan {
    /// Program and arguments.
    pub argv: Vec<CString>,
    /// `NAME=value`, each name once.
    pub env: Vec<CString>,
    /// Paths of the program: the first that exists is executed.
    pub candidates: Vec<CString>,
    /// Working directories: the first that can be entered.
    pub directories: Vec<CString>,
    /// User and groups to become; `None` to stay.
    pub account: Option<Account>,
}

impl SpawnPlan {
    /// Checks `request` and looks up its user.
    pub fn new(request: &ExecRequest) -> Result<Self, Failure> {
        let argv =
            request.argv.iter().map(|word| text(word, "an argument")).collect::<Result<Vec<_>, _>>()?;
        let Some(program) = request.argv.first().filter(|word| !word.0.is_empty()) else {
            return Err(refusal(FailureKind::BadRequest, "request", "the command is empty"));
        };
        let account = match &request.user {
            Some(user) => Some(users::resolve(user)?),
            None => None,
        };
        let env = environment(request, account.as_ref())?;
        let path = env.iter().find(|(name, _)| name == b"PATH").map_or(DEFAULT_PATH, |(_, value)| value);
        let candidates = candidates(&program.0, path)?;
        let directories = match &request.cwd {
            Some(cwd) if cwd.0.is_empty() => {
                return Err(refusal(FailureKind::BadDirectory, "cwd", "the working directory is empty"));
            }
            Some(cwd) => vec![text(cwd, "the working directory")?],
            None => vec![c_string(WORKSPACE, "")?, c_string(b"/", "")?],
        };
        let env = env
            .into_iter()
            .map(|(name, value)| c_string(&[&name[..], b"=", &value].concat(), "an environment variable"))
            .collect::<Result<_, _>>()?;
        Ok(Self { argv, env, candidates, directories, account })
    }
}

fn text(bytes: &Bytes, what: &str) -> Result<CString, Failure> {
    c_string(&bytes.0, what)
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, Failure> {
    CString::new(bytes)
        .map_err(|_| refusal(FailureKind::BadRequest, "request", format!("{what} contains a zero byte")))
}

type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// Environment of a command: the guest's defaults, replaced and extended by the request's.
fn environment(request: &ExecRequest, account: Option<&Account>) -> Result<Variables, Failure> {
    let own;
    let account = match account {
        Some(account) => account,
        None => {
            own = users::own();
            &own
        }
    };
    let mut env: Variables = vec![
        (b"PATH".to_vec(), DEFAULT_PATH.to_vec()),
        (b"HOME".to_vec(), account.home.clone()),
        (b"USER".to_vec(), account.name.clone()),
        (b"LOGNAME".to_vec(), account.name.clone()),
        (b"SHELL".to_vec(), account.shell.clone()),
        (b"LANG".to_vec(), b"C.UTF-8".to_vec()),
    ];
    if matches!(request.stdio, ExecStdio::Terminal(_)) {
        env.push((b"TERM".to_vec(), b"xterm-256color".to_vec()));
    }
    // By hand for few, sorted for many: an environment may have thousands of names.
    let mut asked: Vec<&(Bytes, Bytes)> = Vec::with_capacity(request.env.len());
    let mut seen = std::collections::HashSet::with_capacity(request.env.len());
    for pair in request.env.iter().rev() {
        let name = &pair.0.0;
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            let message =
                format!("{:?} cannot be the name of an environment variable", OsStr::from_bytes(name));
            return Err(refusal(FailureKind::BadRequest, "request", message));
        }
        if seen.insert(&name[..]) {
            asked.push(pair);
        }
    }
    env.retain(|(name, _)| !seen.contains(&name[..]));
    env.extend(asked.into_iter().rev().map(|(name, value)| (name.0.clone(), value.0.clone())));
    Ok(env)
}

/// Paths that `program` may mean, in order of preference.
fn candidates(program: &[u8], path: &[u8]) -> Result<Vec<CString>, Failure> {
    if program.contains(&b'/') {
        return Ok(vec![c_string(program, "an argument")?]);
    }
    path.split(|byte| *byte == b':')
        .map(|directory| match directory {
            // An empty entry is the working directory.
            b"" => c_string(&[b"./", program].concat(), "PATH"),
            _ => c_string(&[directory, b"/", program].concat(), "PATH"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(argv: &[&[u8]], env: &[(&[u8], &[u8])]) -> ExecRequest {
        ExecRequest {
            argv: argv.iter().map(|word| (*word).into()).collect(),
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            cwd: None,
            user: None,
            stdio: ExecStdio::Output,
            timeout_ms: None,
            drain_ms: 0,
        }
    }

    #[test]
    fn the_commands_own_path_is_searched() {
        let plan = SpawnPlan::new(&exec(&[b"x"], &[(b"PATH", b"/a::/b")])).unwrap();
        assert_eq!(plan.candidates, [c"/a/x", c"./x", c"/b/x"].map(CString::from));
        let plan = SpawnPlan::new(&exec(&[b"./x"], &[])).unwrap();
        assert_eq!(plan.candidates, [CString::from(c"./x")]);
    }

    #[test]
    fn the_last_setting_of_a_name_counts() {
        let plan = SpawnPlan::new(&exec(&[b"x"], &[(b"A", b"1"), (b"LANG", b"xx"), (b"A", b"2")])).unwrap();
        let named = |name: &[u8]| {
            plan.env.iter().filter(|pair| pair.as_bytes().starts_with(name)).collect::<Vec<_>>()
        };
        assert_eq!(named(b"A="), [c"A=2"]);
        assert_eq!(named(b"LANG="), [c"LANG=xx"]);
        assert_eq!(named(b"TERM="), [c""; 0]);
    }

    #[test]
    fn nonsense_is_refused() {
        for request in [
            exec(&[], &[]),
            exec(&[b""], &[]),
            exec(&[b"a\0b"], &[]),
            exec(&[b"a", b"\0"], &[]),
            exec(&[b"a"], &[(b"", b"x")]),
            exec(&[b"a"], &[(b"A=B", b"x")]),
            exec(&[b"a"], &[(b"A", b"\0")]),
        ] {
            assert_eq!(SpawnPlan::new(&request).unwrap_err().kind, FailureKind::BadRequest, "{request:?}");
        }
    }
}
