//! `pyro workspace`: microVMs that stay.

mod create;
mod delete;
mod diff;
mod disk;
mod exec;
mod export;
mod file;
mod fork;
mod list;
mod logs;
mod patch;
mod reset;
mod service;
mod shell;
mod shell_attach;
mod show;
mod show_jobs;
mod snapshot;
mod start;
mod status;
mod stop;
mod sync;
mod table;
mod update;

use clap::Subcommand;
use pyro_core::archive::{OutsideLinks, SkippedLink};
use pyro_core::workspace::Workspaces;

use crate::error::CliError;
use crate::places;

/// Make, use and keep workspaces: microVMs that stay
#[derive(Subcommand)]
pub enum Workspace {
    /// Make a workspace and start it
    Create(create::Args),
    /// Run one command in /workspace
    Exec(exec::Args),
    /// List all workspaces
    List(list::Args),
    /// Show everything about one workspace
    Status(status::Args),
    /// Show every command that was run, with its output
    Logs(logs::Args),
    /// Change a workspace's name and labels
    Update(update::Args),
    /// Keep, list and remove copies of a workspace's disk
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Go back to the baseline or a snapshot: the whole sandbox, not only /workspace
    Reset(reset::Args),
    /// Make new workspaces from one as it is now, or from one of its snapshots
    Fork(fork::Args),
    /// End the guest; disk and history stay
    Stop(stop::Args),
    /// Start a stopped workspace
    Start(start::Args),
    /// End everything of a workspace and remove it
    Delete(delete::Args),
    /// Open, use and close terminal sessions that stay
    #[command(subcommand)]
    Shell(shell::Shell),
    /// Start, watch and stop processes that go on
    #[command(subcommand)]
    Service(service::Service),
    /// Copy from the host into a running workspace
    #[command(subcommand)]
    Sync(sync::Sync),
    /// List, read and write files of a running workspace
    #[command(subcommand)]
    File(file::File),
    /// Change files of a running workspace by a patch
    #[command(subcommand)]
    Patch(patch::Patch),
    /// Copy a file or directory of a running workspace to this host
    Export(export::Args),
    /// Show what differs from the workspace's beginning
    Diff(diff::Args),
    /// Look into the disk of a stopped workspace
    #[command(subcommand)]
    Disk(disk::Disk),
}

impl Workspace {
    /// Whether failures are to be printed as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Create(args) => args.json,
            Self::Exec(args) => args.json,
            Self::List(args) => args.json,
            Self::Status(args) => args.json,
            Self::Logs(args) => args.json,
            Self::Update(args) => args.json,
            Self::Snapshot(snapshot) => snapshot.wants_json(),
            Self::Reset(args) => args.json,
            Self::Fork(args) => args.json,
            Self::Stop(args) => args.json,
            Self::Start(args) => args.json,
            Self::Delete(args) => args.json,
            Self::Shell(shell) => shell.wants_json(),
            Self::Service(service) => service.wants_json(),
            Self::Sync(sync) => sync.wants_json(),
            Self::File(file) => file.wants_json(),
            Self::Patch(patch) => patch.wants_json(),
            Self::Export(args) => args.json,
            Self::Diff(args) => args.json,
            Self::Disk(disk) => disk.wants_json(),
        }
    }

    /// Runs the command and gives its exit code.
    pub async fn execute(self) -> Result<u8, CliError> {
        match self {
            Self::Create(args) => args.execute().await,
            Self::Exec(args) => args.execute().await,
            Self::List(args) => args.execute().await,
            Self::Status(args) => args.execute().await,
            Self::Logs(args) => args.execute().await,
            Self::Update(args) => args.execute().await,
            Self::Snapshot(snapshot) => snapshot.execute().await,
            Self::Reset(args) => args.execute().await,
            Self::Fork(args) => args.execute().await,
            Self::Stop(args) => args.execute().await,
            Self::Start(args) => args.execute().await,
            Self::Delete(args) => args.execute().await,
            Self::Shell(shell) => shell.execute().await,
            Self::Service(service) => service.execute().await,
            Self::Sync(sync) => sync.execute().await,
            Self::File(file) => file.execute().await,
            Self::Patch(patch) => patch.execute().await,
            Self::Export(args) => args.execute().await,
            Self::Diff(args) => args.execute().await,
            Self::Disk(disk) => disk.execute().await,
        }
    }
}

/// The workspaces of this user, started with the backend that the flag asks for.
fn workspaces(backend: Option<&str>) -> Result<Workspaces, CliError> {
    Ok(Workspaces::new(places::factory(backend)?))
}

/// Says why a start is no plain restore.
fn remark(text: &str) {
    eprintln!("[workspace] {text}");
}

/// What becomes of symbolic links that lead out of a tree.
#[derive(clap::Args)]
pub struct LinksArg {
    /// Leave out symbolic links that lead out of the tree, such as bin/python -> /usr/bin/python3, and say which;
    /// otherwise the tree is refused because of them
    #[arg(long)]
    skip_outside_links: bool,
}

impl LinksArg {
    fn wanted(&self) -> OutsideLinks {
        if self.skip_outside_links { OutsideLinks::Skip } else { OutsideLinks::Refuse }
    }
}

/// Says which links were left out.
fn say_skipped(what: &str, links: &[SkippedLink], count: u64) {
    for SkippedLink { path, target } in links {
        eprintln!("[{what}] left out {path:?}: it leads out of the tree, to {target:?}");
    }
    let more = count.saturating_sub(links.len() as u64);
    if more > 0 {
        eprintln!("[{what}] left out {more} more such links");
    }
}

/// `key=value`, as labels are given.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}
