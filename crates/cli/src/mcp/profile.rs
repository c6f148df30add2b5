//! Sets of tools that are shown: fewer are easier for a model to choose from.

use clap::ValueEnum;

/// A set of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// One tool: a command in a throw-away microVM
    VmRun,
    /// The loop of editing: create, read, change, exec, diff, export
    WorkspaceCore,
    /// Everything
    WorkspaceFull,
}

/// The tools of [`Profile::WorkspaceCore`].
const CORE: [&str; 16] = [
    "vm_run",
    "workspace_create",
    "workspace_list",
    "workspace_update",
    "workspace_exec",
    "workspace_sync_push",
    "workspace_status",
    "workspace_logs",
    "workspace_export",
    "workspace_diff",
    "workspace_file_list",
    "workspace_file_read",
    "workspace_file_write",
    "workspace_patch_apply",
    "workspace_reset",
    "workspace_delete",
];

impl Profile {
    /// Whether it is about workspaces too.
    pub fn has_workspaces(self) -> bool {
        self != Self::VmRun
    }

    /// Whether a tool of this name is shown.
    pub fn shows(self, tool: &str) -> bool {
        match self {
            Self::VmRun => tool == "vm_run",
            Self::WorkspaceCore => CORE.contains(&tool),
            Self::WorkspaceFull => true,
        }
    }
}
