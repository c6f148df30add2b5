//! Snapshots of a workspace, and going back to them.

use std::sync::Arc;

use pyro_core::workspace::{BASELINE, Reset, SnapshotCreated, SnapshotDeleted, SnapshotList};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Named;
use crate::mcp::call::Call;
use crate::mcp::failure::Failure;
use crate::mcp::host::Host;
use crate::mcp::order::Place;
use crate::mcp::tool::{Effect, Tool};

pub fn tools() -> Vec<Tool> {
    use Effect::{Adds, Destroys, Reads};
    use Place::{After, Change, Edit};
    vec![
        Tool::new(
            "snapshot_create",
            "Keep the whole disk of a running workspace under a name, to come back to with workspace_reset.",
            Adds,
            Some(Edit),
            create,
        ),
        Tool::new("snapshot_list", "List the snapshots of a workspace.", Reads, Some(After), list),
        Tool::new(
            "snapshot_delete",
            "Remove a snapshot; the baseline stays.",
            Destroys,
            Some(Change),
            delete,
        ),
        Tool::new(
            "workspace_reset",
            "Put the whole workspace back to its beginning or to a snapshot, whatever happened to it.",
            Destroys,
            Some(Change),
            reset,
        ),
    ]
}

fn baseline() -> String {
    BASELINE.into()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    /// Its id or name
    workspace_id: String,
    /// Name of the snapshot
    snapshot_name: String,
}

async fn create(host: Arc<Host>, input: Snapshot, _: Call) -> Result<SnapshotCreated, Failure> {
    Ok(host.workspaces.create_snapshot(&input.workspace_id, &input.snapshot_name, false).await?)
}

async fn list(host: Arc<Host>, input: Named, _: Call) -> Result<SnapshotList, Failure> {
    Ok(host.workspaces.snapshots(&input.workspace_id).await?)
}

async fn delete(host: Arc<Host>, input: Snapshot, _: Call) -> Result<SnapshotDeleted, Failure> {
    Ok(host.workspaces.delete_snapshot(&input.workspace_id, &input.snapshot_name).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Back {
    /// Its id or name
    workspace_id: String,
    /// Snapshot to go back to
    #[serde(default = "baseline")]
    snapshot: String,
}

async fn reset(host: Arc<Host>, input: Back, call: Call) -> Result<Reset, Failure> {
    Ok(host.workspaces.reset(&input.workspace_id, &input.snapshot, &mut |remark| call.remark(remark)).await?)
}
