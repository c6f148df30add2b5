//! Handshake of a connection: a nonce each way, so that no byte of an earlier session is taken for one of this.
//!
//! A virtio-serial port has no connection boundary. After a reconnect either side may first receive the rest of the
//! old session, and a new request may be glued to half of an old one. So:
//!
//! ```text
//!   host                                guest
//!    | -- HELLO(host nonce) ------------> |   scanning: everything that is not a HELLO is discarded
//!    | <- WELCOME(host, guest nonce) ---- |
//!    |   discards until its nonce is back |
//!    | -- CONFIRM(guest nonce) ---------> |   discards until its nonce is back
//!    | == records, tagged by both nonces ==|
//! ```
//!
//! A HELLO may be repeated with the same nonce while no answer came; the guest answers each with the same WELCOME.
//! The state machines here are pure: bytes in, bytes and verdicts out.

use crate::{GENERATION, OLDEST_GENERATION};

/// Length in bytes of every handshake block.
pub const BLOCK: usize = 48;

/// A fresh random number that no earlier session used.
pub type Nonce = [u8; 16];

const HELLO: &[u8; 8] = b"pyroHELO";
const WELCOME: &[u8; 8] = b"pyroWELC";
const CONFIRM: &[u8; 8] = b"pyroCONF";

/// The tags that end every record of one session, one per direction; see [`crate::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags {
    /// Ends records from host to guest.
    pub to_guest: [u8; 8],
    /// Ends records from guest to host.
    pub to_host: [u8; 8],
}

impl Tags {
    fn derive(host: &Nonce, guest: &Nonce) -> Self {
        let mut mixed = [0; 16];
        for (out, (a, b)) in mixed.iter_mut().zip(host.iter().zip(guest)) {
            *out = a ^ b;
        }
        let (mut to_guest, mut to_host) = ([0; 8], [0; 8]);
        to_guest.copy_from_slice(&mixed[..8]);
        to_host.copy_from_slice(&mixed[8..]);
        Self { to_guest, to_host }
    }
}

/// Agreement of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The session's record tags.
    pub tags: Tags,
    /// Generation that both speak: the lower of the two.
    pub generation: u16,
}

/// Why a handshake cannot end well, however long one waits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HandshakeError {
    /// The peer speaks only generations that this side no longer knows.
    #[error("the peer speaks protocol generation {theirs}, this side {OLDEST_GENERATION} to {GENERATION}")]
    Generation {
        /// The newest generation of the peer.
        theirs: u16,
    },
}

/// FNV-1a; it only tells a block from chance bytes, the nonces do the rest.
fn check(bytes: &[u8]) -> [u8; 4] {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in bytes {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_le_bytes()
}

fn block(magic: &[u8; 8], first: &Nonce, second: &Nonce) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    out[..8].copy_from_slice(magic);
    out[8..24].copy_from_slice(first);
    out[24..40].copy_from_slice(second);
    out[40..42].copy_from_slice(&GENERATION.to_le_bytes());
    let sum = check(&out[..44]);
    out[44..].copy_from_slice(&sum);
    out
}

/// Handshake block found in the input.
struct Block {
    magic: [u8; 8],
    first: Nonce,
    second: Nonce,
    generation: u16,
}

fn parse(bytes: &[u8]) -> Option<Block> {
    let bytes: &[u8; BLOCK] = bytes.first_chunk()?;
    if bytes[44..] != check(&bytes[..44]) {
        return None;
    }
    let mut found = Block {
        magic: [0; 8],
        first: [0; 16],
        second: [0; 16],
        generation: u16::from_le_bytes([bytes[40], bytes[41]]),
    };
    found.magic.copy_from_slice(&bytes[..8]);
    found.first.copy_from_slice(&bytes[8..24]);
    found.second.copy_from_slice(&bytes[24..40]);
    Some(found)
}

/// Holds the last bytes of the input that could still become a block; never more than one block.
#[derive(Default)]
struct Scanner {
    held: Vec<u8>,
}

impl Scanner {
    /// Takes bytes from `input` up to and including the first whole block; `None` when the input is used up.
    fn next(&mut self, input: &mut &[u8]) -> Option<Block> {
        while let Some((&byte, rest)) = input.split_first() {
            if self.held.is_empty() {
                // Discarding megabytes of an old session byte by byte would be slow: jump to a possible start.
                match input.iter().position(|b| *b == b'p') {
                    Some(at) if at > 0 => {
                        *input = &input[at..];
                        continue;
                    }
                    None => {
                        *input = &[];
                        return None;
                    }
                    Some(_) => {}
                }
            }
            *input = rest;
            self.held.push(byte);
            self.trim();
            if self.held.len() == BLOCK {
                if let Some(found) = parse(&self.held) {
                    self.held.clear();
                    return Some(found);
                }
                self.held.remove(0);
                self.trim();
            }
        }
        None
    }

    /// Drops leading bytes until the held bytes are a prefix of some block.
    fn trim(&mut self) {
        let plausible = |held: &[u8]| {
            let n = held.len().min(8);
            [HELLO, WELCOME, CONFIRM].iter().any(|magic| magic[..n] == held[..n])
        };
        while !self.held.is_empty() && !plausible(&self.held) {
            self.held.remove(0);
        }
    }
}

/// The host's side of the handshake.
pub struct HostHandshake {
    nonce: Nonce,
    scanner: Scanner,
}

impl HostHandshake {
    /// Begins a session; `nonce` must be fresh and random.
    pub fn new(nonce: Nonce) -> Self {
        Self { nonce, scanner: Scanner::default() }
    }

    /// The bytes to send first, and again whenever no answer came for a while.
    pub fn hello(&self) -> [u8; BLOCK] {
        block(HELLO, &self.nonce, &[0; 16])
    }

    /// Consumes input up to the guest's answer, which yields the agreement and the bytes to send back.
    /// What remains in `input` then belongs to the session.
    pub fn advance(&mut self, input: &mut &[u8]) -> Result<Option<(Agreement, [u8; BLOCK])>, HandshakeError> {
        while let Some(found) = self.scanner.next(input) {
            if &found.magic == WELCOME && found.first == self.nonce {
                let generation = settle(found.generation)?;
                let tags = Tags::derive(&self.nonce, &found.second);
                return Ok(Some((Agreement { tags, generation }, block(CONFIRM, &found.second, &[0; 16]))));
            }
        }
        Ok(None)
    }

    /// Whether `bytes` begin with one more copy of the answer this host already had (it had said HELLO twice).
    pub fn is_repeated_welcome(bytes: &[u8]) -> bool {
        parse(bytes).is_some_and(|found| &found.magic == WELCOME)
    }
}

/// The guest's side of the handshake.
pub struct GuestHandshake {
    scanner: Scanner,
    offered: Option<(Nonce, Nonce, u16)>,
}

impl Default for GuestHandshake {
    fn default() -> Self {
        Self::new()
    }
}

/// Next step of the guest after [`GuestHandshake::advance`].
#[derive(Debug, PartialEq, Eq)]
pub enum GuestStep {
    /// Send these bytes and go on.
    Answer([u8; BLOCK]),
    /// The session is established; the remaining input belongs to it.
    Established(Agreement),
}

impl GuestHandshake {
    /// Waits for a host.
    pub fn new() -> Self {
        Self { scanner: Scanner::default(), offered: None }
    }

    /// Consumes input until there is something to do; `fresh` makes a nonce that was never used.
    pub fn advance(
        &mut self,
        input: &mut &[u8],
        mut fresh: impl FnMut() -> Nonce,
    ) -> Result<Option<GuestStep>, HandshakeError> {
        while let Some(found) = self.scanner.next(input) {
            if &found.magic == HELLO {
                let generation = settle(found.generation)?;
                let ours = match self.offered {
                    Some((host, ours, _)) if host == found.first => ours,
                    _ => fresh(),
                };
                self.offered = Some((found.first, ours, generation));
                return Ok(Some(GuestStep::Answer(block(WELCOME, &found.first, &ours))));
            }
            if &found.magic == CONFIRM
                && let Some((host, ours, generation)) = self.offered
                && found.first == ours
            {
                let tags = Tags::derive(&host, &ours);
                return Ok(Some(GuestStep::Established(Agreement { tags, generation })));
            }
        }
        Ok(None)
    }
}

fn settle(theirs: u16) -> Result<u16, HandshakeError> {
    let lower = theirs.min(GENERATION);
    if lower < OLDEST_GENERATION { Err(HandshakeError::Generation { theirs }) } else { Ok(lower) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(
        host: &mut HostHandshake,
        guest: &mut GuestHandshake,
        noise_in: &[u8],
        noise_out: &[u8],
    ) -> (Tags, Tags) {
        let mut to_guest = noise_in.to_vec();
        to_guest.extend(host.hello());
        let mut input = &to_guest[..];
        let mut to_host = noise_out.to_vec();
        while let Some(step) = guest.advance(&mut input, || [9; 16]).unwrap() {
            match step {
                GuestStep::Answer(bytes) => to_host.extend(bytes),
                GuestStep::Established(_) => panic!("established without a confirmation"),
            }
        }
        let mut input = &to_host[..];
        let (agreed, confirm) = host.advance(&mut input).unwrap().expect("the welcome is there");
        let mut input = &confirm[..];
        match guest.advance(&mut input, || [8; 16]).unwrap() {
            Some(GuestStep::Established(theirs)) => (agreed.tags, theirs.tags),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn repeated_hello_keeps_the_offer() {
        let host = HostHandshake::new([1; 16]);
        let mut guest = GuestHandshake::new();
        let twice = [host.hello(), host.hello()].concat();
        let mut input = &twice[..];
        let mut nonces = 0;
        let mut answers = Vec::new();
        while let Some(GuestStep::Answer(bytes)) = guest
            .advance(&mut input, || {
                nonces += 1;
                [nonces; 16]
            })
            .unwrap()
        {
            answers.push(bytes);
        }
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0], answers[1]);
    }

    #[test]
    fn a_stale_confirmation_is_ignored() {
        let mut guest = GuestHandshake::new();
        let stale = block(CONFIRM, &[7; 16], &[0; 16]);
        assert_eq!(guest.advance(&mut &stale[..], || [9; 16]).unwrap(), None);
    }

    #[test]
    fn an_unknown_generation_is_an_error() {
        let mut bytes = block(HELLO, &[1; 16], &[0; 16]);
        bytes[40..42].copy_from_slice(&0_u16.to_le_bytes());
        let sum = check(&bytes[..44]);
        bytes[44..].copy_from_slice(&sum);
        let error = GuestHandshake::new().advance(&mut &bytes[..], || [9; 16]).unwrap_err();
        assert_eq!(error, HandshakeError::Generation { theirs: 0 });
    }

    proptest! {
        /// Whatever lies in the pipes from before, both sides agree, also on half a block of an older handshake.
        #[test]
        fn agrees_after_any_noise(noise_in: Vec<u8>, noise_out: Vec<u8>, cut in 0..BLOCK, nonce: [u8; 16]) {
            let older = HostHandshake::new([3; 16]).hello();
            let noise_in = [&noise_in[..], &older[..cut]].concat();
            let noise_out = [&noise_out[..], &block(WELCOME, &[3; 16], &[4; 16])[..cut]].concat();
            let (a, b) = run(&mut HostHandshake::new(nonce), &mut GuestHandshake::new(), &noise_in, &noise_out);
            prop_assert_eq!(a, b);
        }

        /// Input may arrive in any pieces.
        #[test]
        fn pieces_do_not_matter(size in 1_usize..60) {
            let host = HostHandshake::new([1; 16]);
            let mut guest = GuestHandshake::new();
            let bytes = [b"pyropyroHE".as_slice(), &host.hello()].concat();
            let mut answered = false;
            for piece in bytes.chunks(size) {
                let mut input = piece;
                while let Some(step) = guest.advance(&mut input, || [9; 16]).unwrap() {
                    answered |= matches!(step, GuestStep::Answer(_));
                }
            }
            prop_assert!(answered);
        }
    }
}
