//! Whatever a guest answers to HELLO, or a host sends instead of it, in whatever pieces: no panic, and agreement only on our
//! own nonce.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyro_fuzz::Input;
use pyro_proto::GENERATION;
use pyro_proto::handshake::{GuestHandshake, GuestStep, HostHandshake};

const HOST: [u8; 16] = [0x5a; 16];
const GUEST: [u8; 16] = [7; 16];

/// Blocks whose sums are right, whole and cut, with other bytes between them.
fn blocks(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() && stream.len() < 1 << 16 {
        let choice = input.byte();
        let magic: &[u8; 8] = match choice & 3 {
            0 => {
                stream.extend_from_slice(input.text());
                continue;
            }
            1 => b"pyroHELO",
            2 => b"pyroWELC",
            _ => b"pyroCONF",
        };
        let mut block = magic.to_vec();
        for which in [choice >> 2, choice >> 4] {
            match which & 3 {
                0 => block.extend_from_slice(&HOST),
                1 => block.extend_from_slice(&GUEST),
                _ => block.extend_from_slice(input.take(16)),
            }
            block.resize(block.len().next_multiple_of(8), 0);
        }
        block.resize(40, 0);
        let generation = if choice & 0x40 != 0 { input.pair() } else { GENERATION };
        block.extend_from_slice(&generation.to_le_bytes());
        block.resize(44, 0);
        let sum = block
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        block.extend_from_slice(&sum.to_le_bytes());
        if choice & 0x80 != 0 {
            block.truncate(input.byte().into());
        }
        stream.extend_from_slice(&block);
    }
    stream
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let size = usize::from(input.byte()).max(1);
    let stream = blocks(&mut input);
    let has = |nonce: [u8; 16]| stream.windows(16).any(|window| window == nonce);

    let mut guest = GuestHandshake::new();
    'guest: for piece in stream.chunks(size) {
        let mut input = piece;
        loop {
            match guest.advance(&mut input, || GUEST) {
                Ok(Some(GuestStep::Established(_))) => assert!(has(GUEST)),
                Ok(Some(GuestStep::Answer(_))) => {}
                Ok(None) => break assert!(input.is_empty()),
                Err(_) => break 'guest,
            }
        }
    }

    let mut host = HostHandshake::new(HOST);
    for piece in stream.chunks(size) {
        let mut input = piece;
        match host.advance(&mut input) {
            Ok(Some((agreement, _))) => {
                assert!(has(HOST) && agreement.generation <= GENERATION);
                return;
            }
            Ok(None) => assert!(input.is_empty()),
            Err(_) => return,
        }
    }
});
