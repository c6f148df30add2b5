//! Templates: guests that were booted once, saved while they listen, and restored for every later start.
//!
//! ```text
//!   key      what a template depends on
//!   store    templates on disk: found, believed or not, published, removed
//!   make     from a booted guest to a template
//! ```
//!
//! Templates are caches. Whatever is wrong with one, a start boots instead and says so; nothing is ever wrong, only
//! slower. They hold no secret: a guest is saved before anybody used it.
//!
//! Invariant: what has the name of a template is whole and has not been touched since. It is on disk before it gets
//! that name, by one rename.

mod key;
mod make;
mod store;

pub use key::{TemplateKey, TemplateKind};
pub(crate) use make::{Maker, Saved};
pub use store::{StoredTemplate, Template, TemplateLookup, Templates};
