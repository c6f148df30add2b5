//! Workspaces as a person has them: whole processes of `pyro workspace`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use super::{Bench, Measure, Row, Series};

const MEASURE: Measure = Measure::Workspace;

/// What takes longest, by far, is git's first look at many files.
const DEADLINE: Duration = Duration::from_secs(900);

/// What a workspace wrote before its disk is copied, in MiB.
pub(super) const WRITTEN_MIB: u32 = 100;

/// A measurement that was killed leaves its workspace for so long, seconds.
pub(super) const TTL: u64 = 600;

/// Where workspaces are, and how they are spoken to.
#[derive(Clone)]
pub(super) struct Place {
    pyro: PathBuf,
    environment: String,
    backend: &'static str,
    /// Words before `pyro`, which lead it to `dir`.
    enter: Vec<String>,
    /// Another directory than the usual.
    dir: Option<PathBuf>,
}

/// A workspace, deleted with this.
pub(super) struct Kept {
    place: Place,
    pub(super) id: String,
    gone: bool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let mut delete = self.place.command(&["delete", &self.id]);
        // It is stopped and forgotten by itself later if this fails.
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Place {
    /// Where this user's workspaces are.
    pub(super) fn usual(bench: &Bench<'_>) -> Self {
        Self {
            pyro: bench.plan.pyro.clone(),
            environment: bench.plan.environment.clone(),
            backend: bench.factory.preference.name(),
            enter: Vec::new(),
            dir: None,
        }
    }

    /// Another directory, to which the words `enter` lead whatever program follows them.
    pub(super) fn elsewhere(self, dir: PathBuf, enter: Vec<String>) -> Self {
        Self { enter, dir: Some(dir), ..self }
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let mut all = self.enter.iter().map(OsStr::new).chain([self.pyro.as_os_str()]);
        let mut command = std::process::Command::new(all.next().unwrap_or_default());
        command.args(all).arg("workspace").args(words).stdin(Stdio::null());
        command.envs(self.dir.as_ref().map(|dir| ("PYRO_WORKSPACES_DIR", dir)));
        command
    }

    /// What `pyro workspace` with these words prints, and how long it took, ms.
    pub(super) async fn workspace(&self, words: &[&str]) -> Result<(String, f64), String> {
        let mut command = Command::from(self.command(words));
        command.kill_on_drop(true);
        let begin = Instant::now();
        let ended = tokio::time::timeout(DEADLINE, command.output()).await;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        let output = ended
            .map_err(|_| format!("{}: it did not end within {} s", words.join(" "), DEADLINE.as_secs()))?
            .map_err(|error| format!("{}: {error}", self.pyro.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let why = said.lines().rfind(|line| line.starts_with("[error]")).unwrap_or("no reason given");
            return Err(format!("{}: {why}", words.join(" ")));
        }
        Ok((String::from_utf8_lossy(&output.stdout).trim().to_owned(), took))
    }

    /// A new workspace that lives for `ttl` seconds after it was last used, and how long that took, ms.
    pub(super) async fn create(&self, ttl: u64) -> Result<(Kept, f64), String> {
        self.create_with(ttl, &[]).await
    }

    /// The same with these words more.
    pub(super) async fn create_with(&self, ttl: u64, more: &[&str]) -> Result<(Kept, f64), String> {
        let ttl = ttl.to_string();
        let words =
            ["create", &self.environment, "--backend", self.backend, "--ttl-seconds", &ttl, "--id-only"];
        let (id, took) = self.workspace(&[&words[..], more].concat()).await?;
        Ok((self.kept(id), took))
    }

    /// A workspace that is to be deleted with what this gives.
    pub(super) fn kept(&self, id: String) -> Kept {
        Kept { place: self.clone(), id, gone: false }
    }
}

impl Kept {
    /// What is done to it by `pyro workspace WORD ID WORDS`: how long that took, ms.
    pub(super) async fn pyro(&self, word: &str, words: &[&str]) -> Result<f64, String> {
        let mut all: Vec<&str> = word.split(' ').collect();
        all.push(&self.id);
        all.extend(words);
        self.place.workspace(&all).await.map(|(_, took)| took)
    }

    /// A command in it: how long all of it took, and the guest's part of that, ms.
    pub(super) async fn exec(&self, words: &[&str]) -> Result<(f64, f64), String> {
        let limit = DEADLINE.as_secs().to_string();
        let all = ["exec", &self.id, "--json", "--timeout-seconds", &limit, "--"];
        let (said, took) = self.place.workspace(&[&all[..], words].concat()).await?;
        let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        match (said["exit_code"].as_i64(), said["duration_ms"].as_f64()) {
            (Some(0), Some(guest)) => Ok((took, guest)),
            _ => Err(format!("{} failed in the guest: {}", words.join(" "), said["stderr"])),
        }
    }

    /// Deletes it: how long that took, ms.
    pub(super) async fn delete(mut self) -> Result<f64, String> {
        let took = self.pyro("delete", &[]).await?;
        self.gone = true;
        Ok(took)
    }

    /// The process that owns it.
    pub(super) async fn keeper(&self) -> Result<u32, String> {
        let (said, _) = self.place.workspace(&["status", &self.id, "--json"]).await?;
        let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let pid = said["keeper_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.ok_or_else(|| format!("{} has no keeper", self.id))
    }

    /// Has it write so much that was not there before, over what it wrote last: its disk holds it once.
    pub(super) async fn write(&self) -> Result<(), String> {
        let line = format!("head -c {} /dev/urandom 1<> big", u64::from(WRITTEN_MIB) << 20);
        self.exec(&[&line]).await.map(drop)
    }
}

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let [mut create, mut floor, mut exec, mut guest] = [const { Series::new() }; 4];
    let [mut snapshot, mut copied, mut reset, mut started] = [const { Series::new() }; 4];
    let place = Place::usual(bench);
    for _ in 0..bench.plan.amount.runs {
        bench.floor_sample(MEASURE, &mut floor, async |floor| floor.restore().await).await;
        let kept = match first_command(&place).await {
            Ok((kept, took)) => {
                bench.keep(MEASURE, &mut create, Ok(took));
                kept
            }
            Err(why) => {
                bench.keep(MEASURE, &mut create, Err(why));
                continue;
            }
        };
        // The second one: of the first nothing was translated yet.
        let (whole, part) = split(kept.exec(&["/bin/true"]).await);
        bench.keep(MEASURE, &mut exec, whole);
        bench.keep(MEASURE, &mut guest, part);
        let (ours, by_hand) = split(copies(bench, &kept).await);
        bench.keep(MEASURE, &mut snapshot, ours);
        bench.keep(MEASURE, &mut copied, by_hand);
        let (ours, by_hand) = split(resets(bench, &place, &kept).await);
        bench.keep(MEASURE, &mut reset, ours);
        bench.keep(MEASURE, &mut started, by_hand);
    }
    let environment = &bench.plan.environment;
    let written = format!("of a workspace that wrote {WRITTEN_MIB} MiB");
    vec![
        Row::new(
            "workspace_create",
            "ms",
            format!("pyro workspace create {environment}, then exec -- /bin/true: first exec to last exit"),
            create,
        )
        .against("a restore of the bare VMM, spawn to first answer", floor),
        Row::new("workspace_exec", "ms", "pyro workspace exec ID -- /bin/true, exec to exit", exec)
            .against("the part of it in the guest: fork to reaped", guest),
        Row::new("workspace_snapshot", "ms", format!("pyro workspace snapshot create, {written}"), snapshot)
            .against("the same again by `sync` in its guest and `cp --sparse=always` of its disk", copied),
        Row::new("workspace_reset", "ms", format!("pyro workspace reset --snapshot, {written}"), reset)
            .against("pyro workspace create and that `cp`", started),
    ]
}

pub(super) fn split<A, B>(both: Result<(A, B), String>) -> (Result<A, String>, Result<B, String>) {
    match both {
        Ok((a, b)) => (Ok(a), Ok(b)),
        Err(why) => (Err(why.clone()), Err(why)),
    }
}

async fn first_command(place: &Place) -> Result<(Kept, f64), String> {
    let (kept, made) = place.create(TTL).await?;
    let (ran, _) = kept.exec(&["/bin/true"]).await?;
    Ok((kept, made + ran))
}

/// A snapshot of what was just written, and the `sync` of as much that was written anew, ms. All of it overwrites what is
/// there: a file that is truncated first is written out when it is closed.
pub(super) async fn snapshot_and_sync(kept: &Kept) -> Result<(f64, f64), String> {
    kept.write().await?;
    kept.exec(&["/bin/sync"]).await?;
    kept.write().await?;
    let ours = kept.pyro("snapshot create", &["bench"]).await?;
    kept.write().await?;
    let (sync, _) = kept.exec(&["/bin/sync"]).await?;
    Ok((ours, sync))
}

/// The same, and a copy of the disk beside the `sync`.
async fn copies(bench: &Bench<'_>, kept: &Kept) -> Result<(f64, f64), String> {
    let (ours, sync) = snapshot_and_sync(kept).await?;
    Ok((ours, sync + copy(bench, kept).await?))
}

/// A sparse copy of the workspace's disk, ms.
async fn copy(bench: &Bench<'_>, kept: &Kept) -> Result<f64, String> {
    let disk = bench.factory.config.workspaces_dir.join(&kept.id).join("disk.ext4");
    let to = bench.scratch.path().join("copy-of-disk");
    let mut cp = Command::new("cp");
    cp.arg("--sparse=always").arg(&disk).arg(&to).stdin(Stdio::null()).kill_on_drop(true);
    let begin = Instant::now();
    let status = cp.status().await.map_err(|error| format!("cp: {error}"))?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let _ = std::fs::remove_file(&to);
    if status.success() { Ok(took) } else { Err(format!("cp of {}: {status}", disk.display())) }
}

/// A reset to that snapshot, and what a start of a new workspace and such a copy take.
async fn resets(bench: &Bench<'_>, place: &Place, kept: &Kept) -> Result<(f64, f64), String> {
    let ours = kept.pyro("reset", &["--snapshot", "bench"]).await?;
    let (_other, made) = place.create(TTL).await?;
    Ok((ours, made + copy(bench, kept).await?))
}
