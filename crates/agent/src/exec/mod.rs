//! Running commands: each belongs to one stream of a session.
//!
//! ```text
//!   plan       a request, checked and turned into arguments of the kernel
//!   spawn      a child process from a plan
//!   tree       everything a command started, so that all of it can be killed
//!   stdio      pipes and terminals: stdin with its credit, sources of output
//!   drive      input, output, end and deadline of a running command
//! ```
//!
//! Invariant: a command belongs to its stream. Dropping [`run`]'s future, for whatever reason, kills its whole tree.
//! A command that belongs to no stream is a job: [`crate::jobs`].

pub mod drive;
pub mod plan;
pub mod spawn;
pub mod stdio;

pub mod tree;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use pyro_proto::frame::{HEADER, MAX_CHUNK};
use rustix::fs::{Mode, OFlags};

use crate::reaper::Reaper;

pub use drive::run;

/// Buffers kept for the next command.
const KEPT_BUFFERS: usize = 4;

/// State that all commands share.
pub struct Commands {
    reaper: Rc<Reaper>,
    trees: Rc<tree::ProcessTrees>,
    spawner: RefCell<spawn::Spawner>,
    null: OwnedFd,
    buffers: RefCell<Vec<Box<[u8]>>>,
    /// Pipes for the next command.
    pipes: RefCell<Option<stdio::SparePipes>>,
}

impl Commands {
    /// Commands whose ends come through `reaper` and whose processes are kept together by `trees`.
    pub fn new(
        reaper: Rc<Reaper>,
        trees: tree::ProcessTrees,
        setup: spawn::ChildSetup,
    ) -> std::io::Result<Self> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let spawner = RefCell::new(spawn::Spawner::new(setup));
        let pipes = RefCell::new(stdio::SparePipes::new().ok());
        Ok(Self { reaper, trees: Rc::new(trees), spawner, null, buffers: RefCell::default(), pipes })
    }

    /// Makes the pipes for the next command, while nobody waits for them.
    fn prepare(&self) {
        let mut pipes = self.pipes.borrow_mut();
        if pipes.is_none() {
            // A command makes its own where these cannot be had now.
            *pipes = stdio::SparePipes::new().ok();
        }
    }

    /// A buffer for one chunk of output with its header.
    fn buffer(&self) -> Box<[u8]> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| vec![0; HEADER + MAX_CHUNK].into_boxed_slice())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < KEPT_BUFFERS {
            buffers.push(buffer);
        }
    }
}

impl Commands {
    /// The reaper of the commands' processes.
    pub fn reaper(&self) -> &Rc<Reaper> {
        &self.reaper
    }

    /// Kills everything that any command started.
    pub fn kill_all(&self) {
        self.trees.kill_all();
    }
}
