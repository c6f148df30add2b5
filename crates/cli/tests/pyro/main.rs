//! The `pyro` binary as people use it. Modules named `microvm_*` boot real microVMs, from what `make test` prepared.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../../core/tests/backends/mod.rs"]
mod backends;
mod contract;
mod mcp;
mod microvm_bad_days;
mod microvm_bench;
mod microvm_endings;
mod microvm_mcp_clients;
mod microvm_run;
mod microvm_template;
mod microvm_workspace;
mod microvm_workspace_crowd;
mod microvm_workspace_disk;
mod microvm_workspace_ends;
mod microvm_workspace_files;
mod microvm_workspace_forks;
mod microvm_workspace_full;
mod microvm_workspace_kill;
mod microvm_workspace_reflink;
mod microvm_workspace_secrets;
mod microvm_workspace_services;
mod microvm_workspace_session;
mod microvm_workspace_shells;
mod microvm_workspace_snapshots;
mod microvm_workspace_steps;
mod microvm_workspace_trees;
mod output;
mod room;
mod support;
