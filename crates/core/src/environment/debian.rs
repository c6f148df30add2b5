//! A Debian 12 root file system as a directory tree, made by `mmdebstrap` from the machine's own package sources.
//!
//! Nothing of the machine gets in: not its name, resolver, APT configuration or passwords, nor anything that should
//! be each guest's own. Documentation and translations stay out, copyright files do not.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::event::{Events, PullPhase, Unit};
use super::sources::{self, Source};
use super::{EnvironmentError, Package, packages, process};
use crate::hostfs::CancelToken;
use crate::hostfs::process::{Jail, find};

/// The day Debian 12 came out, in days since 1970: when all passwords were last changed, instead of the day of the
/// build. `SOURCE_DATE_EPOCH` would do that too, but with it in the environment Python is compiled so that every
/// import reads and hashes the source.
const PASSWORD_DAY: &str = "19518";
/// Where the machine's package sources are configured.
const ETC_APT: &str = "/etc/apt";
/// Installs a tree that is merged from the start, so that the tool that merges one later, and Perl, need not be in it.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// Run by mmdebstrap in the end, `$1` being the tree: what came, and what the signed index says of it.
const LIST_PACKAGES: &str = r#"set -eu
dpkg-query --admindir="$1/var/lib/dpkg" --show --showformat='${Package}\t${Version}\t${Architecture}\n' > "$PYRO_OUT/installed"
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-cache show $(awk -F '\t' '{ print $1 ":" $3 "=" $2 }' "$PYRO_OUT/installed") > "$PYRO_OUT/index""#;

/// Left out of every package while it is unpacked.
const EXCLUDE: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/man/*",
    // A build that crashes is thrown away anyway.
    "force-unsafe-io",
];

/// Made or left by the build, of no use or not for everybody to have. A trailing `*` is any ending.
const REMOVE: &[&str] = &[
    "etc/.pwd.lock",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/*",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/group-",
    "etc/gshadow-",
    "etc/hostname",
    "etc/machine-id",
    "etc/passwd-",
    "etc/resolv.conf",
    "etc/shadow-",
    "etc/ssh/ssh_host_*",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status-old",
    "var/log/alternatives.log",
    "var/log/apt/*",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
];

/// Result of a build.
pub(super) struct Built {
    pub(super) packages: Vec<Package>,
    pub(super) suites: Vec<String>,
}

/// Builds into `dir/tree`; `dir` is the build's own and everything else in it is of no use afterwards.
pub(super) fn build(
    name: &str,
    include: &[&str],
    dir: &Path,
    jail: Jail,
    events: &mut Events<'_>,
    cancel: &CancelToken,
) -> Result<Built, EnvironmentError> {
    events.phase(PullPhase::Resolve);
    let mmdebstrap = find("mmdebstrap")?;
    let unreadable = |e| EnvironmentError::cache(Path::new(ETC_APT), "read", e);
    let sources = sources::read(Path::new(ETC_APT)).map_err(unreadable)?;
    if !sources.iter().any(|source| source.suite() == "bookworm") {
        return Err(EnvironmentError::NoSources);
    }
    let options = apt_options(name, jail, cancel)?;
    let (tree, out, temporary) = (dir.join("tree"), dir.join("lists"), dir.join("tmp"));
    let list = dir.join("sources.list");
    let written = |path: &Path| {
        let path = path.to_owned();
        move |e| EnvironmentError::cache(&path, "written", e)
    };
    fs::create_dir(&out).map_err(written(&out))?;
    fs::create_dir(&temporary).map_err(written(&temporary))?;
    let lines: String = sources.iter().map(|source| source.line() + "\n").collect();
    fs::write(&list, lines).map_err(written(&list))?;

    let mut command = jail.command(&mmdebstrap)?;
    command.args([
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        "--architectures=amd64",
        "--verbose",
    ]);
    let mut include = include.join(",");
    if Path::new(MERGED_USR).is_dir() {
        include.push_str(",usr-is-merged");
        command.arg(format!("--hook-dir={MERGED_USR}"));
    }
    command.arg(format!("--include={include}"));
    command.args(EXCLUDE.iter().map(|option| format!("--dpkgopt={option}")));
    command.args(options.iter().map(|option| format!("--aptopt={option}")));
    command.arg(format!("--customize-hook={LIST_PACKAGES}")).arg("bookworm").arg(&tree).arg(&list);
    command.env_remove("SOURCE_DATE_EPOCH").env("TMPDIR", &temporary).env("PYRO_OUT", &out);
    let mut watch = Watch::default();
    process::run_checked(name, "mmdebstrap", &mut command, cancel, &mut |line| watch.take(line, events))?;

    let read = |file: &str| {
        let path = out.join(file);
        fs::read_to_string(&path).map_err(|e| EnvironmentError::cache(&path, "read", e))
    };
    let packages = packages::join(&read("installed")?, &read("index")?)
        .map_err(|why| EnvironmentError::Unsound { name: name.into(), why })?;
    finish(&tree, &sources).map_err(written(&tree))?;
    let mut suites: Vec<_> = sources.iter().map(|source| source.suite().to_owned()).collect();
    suites.sort();
    suites.dedup();
    Ok(Built { packages, suites })
}

/// How this machine reaches its sources, such as its proxy, as options for another APT.
fn apt_options(name: &str, jail: Jail, cancel: &CancelToken) -> Result<Vec<String>, EnvironmentError> {
    find("apt-get")?;
    let mut options = vec![];
    let mut command = jail.command(Path::new("/usr/bin/apt-config"))?;
    command.arg("dump");
    let mut retries = false;
    process::run_checked(name, "apt-config", &mut command, cancel, &mut |line| {
        if is_about_reaching_sources(line) {
            retries |= line.starts_with("Acquire::Retries ");
            options.push(line.to_owned());
        }
    })?;
    if !retries {
        options.push(r#"Acquire::Retries "3";"#.into());
    }
    // Passwords for sources; APT takes an absolute path as it is.
    options.push(format!(r#"Dir::Etc::netrc "{ETC_APT}/auth.conf";"#));
    options.push(format!(r#"Dir::Etc::netrcparts "{ETC_APT}/auth.conf.d";"#));
    Ok(options)
}

/// Whether a line of `apt-config dump` says how to reach package sources, as opposed to what to fetch from them.
fn is_about_reaching_sources(line: &str) -> bool {
    const OTHER: &[&str] = &[
        "Changelogs",
        "CompressionTypes",
        "GzipIndexes",
        "IndexTargets",
        "Languages",
        "cdrom",
        // Never from configuration: what is not signed is not installed.
        "AllowDowngradeToInsecureRepositories",
        "AllowInsecureRepositories",
        "AllowWeakRepositories",
    ];
    let Some((key, value)) = line.split_once(' ') else { return false };
    let Some(key) = key.strip_prefix("Acquire::") else { return false };
    let group = key.split(':').next().unwrap_or_default();
    value != "\"\";" && value.ends_with("\";") && !group.is_empty() && !OTHER.contains(&group)
}

/// Removes what is the build's or the machine's and puts in what every guest needs to find.
fn finish(tree: &Path, sources: &[Source]) -> io::Result<()> {
    for pattern in REMOVE {
        remove(tree, pattern)?;
    }
    let put = |path: &str, text: &str| {
        let path = tree.join(path);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
    };
    let lines: String = sources.iter().map(|source| source.public_line() + "\n").collect();
    put("etc/apt/sources.list", &lines)?;
    put("etc/hostname", "pyro\n")?;
    put("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tpyro\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    // Empty: each guest gets its own.
    put("etc/machine-id", "")?;
    put("etc/resolv.conf", "")?;
    let shadow = tree.join("etc/shadow");
    if shadow.is_file() {
        // Over the old one, whose owner and mode stay.
        fs::write(&shadow, with_password_day(&fs::read_to_string(&shadow)?))?;
    }
    for dir in ["workspace", "proc", "sys", "dev", "run", "tmp"] {
        let path = tree.join(dir);
        if !path.is_dir() {
            fs::create_dir(&path)?;
        }
        let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Lines of `name:password:day:…`.
fn with_password_day(shadow: &str) -> String {
    let line = |line: &str| {
        let mut fields: Vec<_> = line.split(':').collect();
        if let Some(day) = fields.get_mut(2) {
            *day = PASSWORD_DAY;
        }
        fields.join(":") + "\n"
    };
    shadow.lines().map(line).collect()
}

fn remove(tree: &Path, pattern: &str) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let Some(prefix) = pattern.strip_suffix('*') else {
        return gone(fs::remove_file(tree.join(pattern)));
    };
    let (dir, start) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let entries = match fs::read_dir(tree.join(dir)) {
        Ok(entries) => entries,
        Err(error) => return gone(Err(error)),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(start) && !entry.file_type()?.is_dir() {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

/// Progress, read out of what apt and dpkg say.
#[derive(Default)]
struct Watch {
    installing: bool,
    packages: u64,
    done: u64,
}

impl Watch {
    fn take(&mut self, line: &str, events: &mut Events<'_>) {
        if let Some(count) =
            line.split_once(" newly installed").and_then(|(before, _)| before.rsplit(' ').next())
        {
            self.packages += count.parse::<u64>().unwrap_or(0).min(100_000);
            if !std::mem::replace(&mut self.installing, true) {
                events.phase(PullPhase::Install);
            }
        } else if self.installing
            && let Some(package) = step(line)
        {
            self.done += 1;
            // Fetched, unpacked, set up. The count grows once more after the essential packages.
            let detail = Some(package.to_owned());
            events.progress(PullPhase::Install, self.done, self.packages * 3, Unit::Steps, detail);
        }
    }
}

/// The package that a line says was fetched, unpacked or set up.
fn step(line: &str) -> Option<&str> {
    let rest = match line.strip_prefix("Get:") {
        // Get:7 URI SUITE/COMPONENT ARCHITECTURE NAME ARCHITECTURE VERSION [SIZE]
        Some(rest) => return rest.split(' ').nth(4),
        None => line.strip_prefix("Unpacking ").or_else(|| line.strip_prefix("Setting up "))?,
    };
    rest.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_lines() {
        for line in [
            r#"Acquire::http::Proxy "http://proxy.invalid:3128";"#,
            r#"Acquire::Check-Valid-Until "false";"#,
            r#"Acquire::https::a.invalid::Verify-Peer "true";"#,
            r#"Acquire::Retries "5";"#,
        ] {
            assert!(is_about_reaching_sources(line), "{line}");
        }
        for line in [
            r#"Acquire "";"#,
            r#"Acquire::IndexTargets::deb::Packages::MetaKey "x";"#,
            r#"Acquire::AllowInsecureRepositories "1";"#,
            r#"Acquire::Languages:: "none";"#,
            r#"DPkg::Pre-Install-Pkgs:: "rm -rf /";"#,
            "",
        ] {
            assert!(!is_about_reaching_sources(line), "{line}");
        }
    }

    #[test]
    fn progress_is_read_from_apt_and_dpkg() {
        let mut seen = Vec::new();
        let mut sink = |event: super::super::PullEvent| seen.push(event);
        let mut events = Events { environment: "debian:12", sink: &mut sink };
        let mut watch = Watch::default();
        for line in [
            "Get:1 http://a.invalid/debian bookworm InRelease [151 kB]",
            "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
            "Get:1 http://a.invalid/debian bookworm/main amd64 git amd64 1:2.39 [7 MB]",
            "Unpacking git (1:2.39) ...",
            "Setting up git (1:2.39) ...",
            "done.",
        ] {
            watch.take(line, &mut events);
        }
        let progress: Vec<_> = seen.iter().map(|e| e.progress.map(|p| (p.done, p.total))).collect();
        assert_eq!(progress, [None, Some((1, 6)), Some((2, 6)), Some((3, 6))]);
        assert!(seen[1..].iter().all(|event| event.detail.as_deref() == Some("git")));
    }

    #[test]
    fn passwords_were_all_set_on_one_day() {
        let shadow = "root:*:20413:0:99999:7:::\ndaemon:*:20413:0:99999:7:::\n";
        assert_eq!(with_password_day(shadow), shadow.replace("20413", PASSWORD_DAY));
    }

    #[test]
    fn a_tree_is_finished_without_the_machines_traces() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        for path in ["etc/apt/sources.list.d", "etc/ssh", "var/log/apt"] {
            fs::create_dir_all(tree.join(path)).unwrap();
        }
        for path in ["etc/apt/sources.list.d/0000x.list", "etc/ssh/ssh_host_rsa_key", "etc/ssh/sshd_config"] {
            fs::write(tree.join(path), "secret").unwrap();
        }
        for path in ["etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/log/apt/term.log"] {
            fs::write(tree.join(path), "secret").unwrap();
        }
        finish(tree, &[]).unwrap();
        let left: Vec<_> = ["etc/hostname", "etc/resolv.conf", "etc/machine-id", "etc/apt/sources.list"]
            .into_iter()
            .filter(|path| fs::read_to_string(tree.join(path)).unwrap().contains("secret"))
            .collect();
        assert_eq!(left, [""; 0]);
        assert!(!tree.join("etc/ssh/ssh_host_rsa_key").exists());
        assert!(tree.join("etc/ssh/sshd_config").exists());
        assert!(!tree.join("var/log/apt/term.log").exists());
        assert!(tree.join("workspace").is_dir());
        assert_eq!(fs::metadata(tree.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    }
}
