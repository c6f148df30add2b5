//! `pyro mcp serve` as a client meets it, by lines and by HTTP. Modules named `microvm_*` boot real microVMs.

mod client;
mod contract;
mod door;
mod host;
mod http;
mod lines;
mod microvm_bad_input;
mod microvm_calls;
mod microvm_ends;
mod microvm_growth;
mod microvm_host;
mod microvm_http;
mod microvm_tools;
mod schema;
