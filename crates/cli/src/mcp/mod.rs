//! The MCP server: the operations of the command line as tools of a language model's client.
//!
//! ```text
//!   server     the protocol: what a client asks, by rmcp          http: over HTTP
//!   http/      who comes in and for how long, bodies, batches     outline, message: what a client sent
//!   lines      the protocol on standard streams                   stdio: those, without a thread between
//!   asked      requests under way, and batches of them
//!   tool       a tool: name, words, schemas, and the function that does it
//!   tools/     the functions, one file each for what they act on
//!   host       what they act on: workspaces, VMs, and what the person allowed
//!   roots      which host paths a model may name                  order: what must not overtake what
//!   call       one call: progress, its end                        failure, hint: what went wrong, what to try next
//!   cut        long output made short                             profile: which tools are shown
//!   resources, prompts    what there is beside tools            runs: what the rest of an output is
//! ```
//!
//! Invariant: arguments come from a model that may have been talked into something. What they name on the host goes
//! through [`roots`], and nothing that a guest wrote is ever read as an instruction.

mod asked;
mod call;
mod cut;
mod failure;
mod hint;
mod host;
pub mod http;
mod lines;
mod message;
mod order;
mod outline;
mod profile;
mod prompts;
mod resources;
mod roots;
mod runs;
mod server;
mod stdio;
mod tool;
mod tools;

#[cfg(test)]
pub use hint::{for_models, vocabulary};
pub use host::Host;
pub use profile::Profile;
pub use roots::Roots;
pub use server::serve_stdio;
