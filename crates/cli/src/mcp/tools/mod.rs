//! What each tool does, in files by what they act on.

mod files;
mod services;
mod shells;
mod snapshots;
mod vm;
mod workspace;

use pyro_core::archive::OutsideLinks;
use pyro_core::command::CommandLine;
use schemars::JsonSchema;
use serde::Deserialize;

use super::failure::Failure;
use super::tool::Tool;

/// All of them, in the order in which clients see them.
pub fn all() -> Vec<Tool> {
    let mut all = vm::tools();
    all.extend(workspace::tools());
    all.extend(files::tools());
    all.extend(snapshots::tools());
    all.extend(shells::tools());
    all.extend(services::tools());
    all
}

/// A tool without arguments.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A tool that acts on one workspace and wants to know no more.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Named {
    /// Its id or name
    workspace_id: String,
}

/// A line for the guest's shell.
fn shell_line(command: String) -> Result<CommandLine, Failure> {
    CommandLine::from_words(vec![command.into()])
        .ok_or_else(|| Failure::invalid("command is empty", "give a shell command line, such as `make test`"))
}

/// What becomes of links that lead out of a tree.
fn outside_links(skip: bool) -> OutsideLinks {
    if skip { OutsideLinks::Skip } else { OutsideLinks::Refuse }
}

fn workspace_path() -> String {
    "/workspace".into()
}

fn seconds_30() -> u64 {
    30
}

fn one_vcpu() -> u32 {
    1
}

fn memory_mib() -> u32 {
    1024
}

fn ttl_seconds() -> u64 {
    600
}
