//! `pyro workspace`: microVMs that stay.

mod shell_attach;
mod show;
mod show_jobs;
mod table;

use pyro_core::archive::{OutsideLinks, SkippedLink};
use pyro_core::workspace::Workspaces;

use crate::commands::verbs;
use crate::error::CliError;
use crate::output::errln;
use crate::places;

verbs! {
    /// Make, use and keep workspaces: microVMs that stay
    pub enum Workspace {
        /// Make a workspace and start it
        create: Create(Args),
        /// Run one command in /workspace
        exec: Exec(Args),
        /// List all workspaces
        list: List(Args),
        /// Show everything about one workspace
        status: Status(Args),
        /// Show every command that was run, with its output
        logs: Logs(Args),
        /// Change a workspace's name and labels
        update: Update(Args),
        /// Keep, list and remove copies of a workspace's disk
        #[command(subcommand)]
        snapshot: Snapshot(Snapshot),
        /// Go back to the baseline or a snapshot: the whole sandbox, not only /workspace
        reset: Reset(Args),
        /// Make new workspaces from one as it is now, or from one of its snapshots
        fork: Fork(Args),
        /// End the guest; disk and history stay
        stop: Stop(Args),
        /// Start a stopped workspace
        start: Start(Args),
        /// End everything of a workspace and remove it
        delete: Delete(Args),
        /// Open, use and close terminal sessions that stay
        #[command(subcommand)]
        shell: Shell(Shell),
        /// Start, watch and stop processes that go on
        #[command(subcommand)]
        service: Service(Service),
        /// Copy from the host into a running workspace
        #[command(subcommand)]
        sync: Sync(Sync),
        /// List, read and write files of a running workspace
        #[command(subcommand)]
        file: File(File),
        /// Change files of a running workspace by a patch
        #[command(subcommand)]
        patch: Patch(Patch),
        /// Copy a file or directory of a running workspace to this host
        export: Export(Args),
        /// Show what differs from the workspace's beginning
        diff: Diff(Args),
        /// Look into the disk of a stopped workspace
        #[command(subcommand)]
        disk: Disk(Disk),
    }
}

/// The workspaces of this user, started with the backend that the flag asks for.
fn workspaces(backend: Option<&str>) -> Result<Workspaces, CliError> {
    Ok(Workspaces::new(places::factory(backend)?))
}

/// Says why a start is no plain restore.
fn remark(text: &str) {
    errln!("[workspace] {text}");
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
        errln!("[{what}] left out {path:?}: it leads out of the tree, to {target:?}");
    }
    let more = count.saturating_sub(links.len() as u64);
    if more > 0 {
        errln!("[{what}] left out {more} more such links");
    }
}

/// `key=value`, as labels are given.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}
