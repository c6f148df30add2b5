//! Where things are on this host, from environment variables and the home directory. The only reader of either.

mod homes;

use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use pyro_core::backend::Preference;
use pyro_core::config::Config;
use pyro_core::doctor;
use pyro_core::vm::Factory;

use crate::error::CliError;

/// The configuration of this process and user.
///
/// - `PYRO_RUNTIME_BUNDLE_DIR`: the runtime bundle, else `../lib/pyro/runtime` beside the directory of this program;
/// - `PYRO_ENVIRONMENT_CACHE_DIR`: installed environments, else `environments` in the cache;
/// - `PYRO_CACHE_DIR`: the cache, else `pyro-mcp` in `XDG_CACHE_HOME` or `~/.cache`;
/// - `PYRO_BOOT_TIMEOUT_SECONDS`: how long a guest may take to answer, 1 to 3600;
/// - `PYRO_WORKSPACES_DIR`: workspaces, else `pyro-mcp/workspaces` in `XDG_DATA_HOME` or `~/.local/share`;
/// - `PYRO_QEMU`: the QEMU binary, else `qemu-system-x86_64` on the `PATH`.
pub fn config() -> Result<Config, CliError> {
    let cache_dir = match directory("PYRO_CACHE_DIR") {
        Some(dir) => dir,
        None => directory("XDG_CACHE_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".cache")))
            .ok_or_else(|| {
                CliError::new(
                    "there is no place for a cache: HOME is not set",
                    Some("set HOME or PYRO_CACHE_DIR".into()),
                )
            })?
            .join("pyro-mcp"),
    };
    let bundle_dir = match directory("PYRO_RUNTIME_BUNDLE_DIR") {
        Some(dir) => dir,
        None => {
            let program = env::current_exe().map_err(|error| {
                CliError::new(format!("cannot tell where this program is: {error}"), None)
            })?;
            let bin = program.parent().map(PathBuf::from).unwrap_or_default();
            bin.parent().map(PathBuf::from).unwrap_or_default().join("lib/pyro/runtime")
        }
    };
    let scratch_dir = if std::fs::create_dir_all(&cache_dir).is_ok() && writable(&cache_dir) {
        cache_dir.clone()
    } else {
        env::temp_dir()
    };
    let qemu = env::var_os("PYRO_QEMU").map(PathBuf::from);
    let qemu_binary = qemu
        .or_else(|| doctor::find(&search_path(), "qemu-system-x86_64"))
        .unwrap_or_else(|| PathBuf::from("qemu-system-x86_64"));
    let environment_dir =
        directory("PYRO_ENVIRONMENT_CACHE_DIR").unwrap_or_else(|| cache_dir.join("environments"));
    // Beside the environments they are of, unless somebody else keeps his there: each user has his own.
    let beside = environment_dir.join(".templates");
    let theirs =
        std::fs::metadata(&beside).is_ok_and(|stat| stat.uid() != rustix::process::geteuid().as_raw());
    let template_dir = if theirs || environment_dir.is_dir() && !writable(&environment_dir) {
        cache_dir.join("templates")
    } else {
        beside
    };
    let workspaces_dir = directory("PYRO_WORKSPACES_DIR").or_else(|| {
        let data =
            directory("XDG_DATA_HOME").or_else(|| directory("HOME").map(|home| home.join(".local/share")));
        data.map(|data| data.join("pyro-mcp/workspaces"))
    });
    Ok(Config {
        workspaces_dir: workspaces_dir.unwrap_or_else(|| cache_dir.join("workspaces")),
        executable: env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")),
        bundle_dir,
        environment_dir,
        template_dir,
        cache_dir: cache_dir.join("host"),
        run_dir: scratch_dir.join("run"),
        scratch_dir,
        qemu_binary,
        firecracker_binary: doctor::find(&search_path(), "firecracker"),
        boot_deadline: boot_deadline()?,
    })
}

/// Factory of VMs, with the backend that the flag, else `PYRO_BACKEND`, asks for.
pub fn factory(backend: Option<&str>) -> Result<Factory, CliError> {
    Ok(Factory::new(config()?, preference(backend)?))
}

/// The working directory, and every home directory of the people that this process may stand for: none when the user's own
/// cannot be told.
pub fn here() -> Result<(PathBuf, Vec<PathBuf>), CliError> {
    let working_dir = env::current_dir()
        .map_err(|error| CliError::new(format!("the working directory cannot be read: {error}"), None))?;
    let sources = homes::Sources {
        variable: &|name| env::var_os(name),
        user: &homes::in_database,
        runs_as: vec![rustix::process::getuid().as_raw(), rustix::process::geteuid().as_raw()],
        login: std::fs::read_to_string("/proc/self/loginuid").ok(),
        owner: std::fs::metadata(&working_dir).ok().map(|stat| stat.uid()),
    };
    let homes = homes::of(&sources);
    Ok((working_dir.clone(), homes.into_iter().map(|home| working_dir.join(home)).collect()))
}

/// The token that clients of the MCP server must send: `PYRO_MCP_TOKEN`.
pub fn mcp_token() -> Option<String> {
    env::var("PYRO_MCP_TOKEN").ok().filter(|token| !token.is_empty())
}

/// The backend that the flag, else `PYRO_BACKEND`, else nobody asks for.
pub fn preference(flag: Option<&str>) -> Result<Preference, CliError> {
    let from_environment = env::var("PYRO_BACKEND").ok().filter(|text| !text.is_empty());
    match (flag, from_environment) {
        (Some(text), _) => text.parse().map_err(|error: String| CliError::new(error, None)),
        (None, Some(text)) => {
            text.parse().map_err(|error: String| CliError::new(format!("PYRO_BACKEND: {error}"), None))
        }
        (None, None) => Ok(Preference::Auto),
    }
}

/// Directories below which clients of MCP servers keep their files.
pub struct ClientDirs {
    /// The home directory.
    pub home: PathBuf,
    /// `XDG_CONFIG_HOME`, or `.config` in the home directory.
    pub config: PathBuf,
    /// `CODEX_HOME`, or `.codex` in the home directory.
    pub codex: PathBuf,
    /// `CLAUDE_CONFIG_DIR`, or the home directory.
    pub claude: PathBuf,
    /// The working directory.
    pub project: PathBuf,
}

/// Finds the directories of clients.
pub fn client_dirs() -> Result<ClientDirs, CliError> {
    let home = directory("HOME").ok_or_else(|| {
        CliError::new("there is no home directory: HOME is not set", Some("set HOME".into()))
    })?;
    let project = env::current_dir()
        .map_err(|error| CliError::new(format!("the working directory cannot be read: {error}"), None))?;
    Ok(ClientDirs {
        config: directory("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
        codex: directory("CODEX_HOME").unwrap_or_else(|| home.join(".codex")),
        claude: directory("CLAUDE_CONFIG_DIR").unwrap_or_else(|| home.clone()),
        home,
        project,
    })
}

/// Where programs are looked up; system directories too, which are not on an ordinary user's `PATH` everywhere.
pub fn search_path() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    dirs.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs
}

fn boot_deadline() -> Result<Option<Duration>, CliError> {
    let Some(text) = env::var_os("PYRO_BOOT_TIMEOUT_SECONDS").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.to_str().and_then(|text| text.parse().ok()) {
        Some(seconds @ 1..=3600) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(CliError::new("PYRO_BOOT_TIMEOUT_SECONDS must be 1 to 3600", None)),
    }
}

fn directory(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)?;
    // A keeper, which starts in another directory, must find the same.
    Some(std::path::absolute(&value).unwrap_or(value))
}

fn writable(dir: &std::path::Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}
