//! Whatever a guest answers to HELLO, or a host sends instead of it, in whatever pieces: no panic, and agreement only on our
//! own nonce.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyro_proto::handshake::{GuestHandshake, HostHandshake};

fuzz_target!(|data: (u8, Vec<u8>)| {
    let (size, bytes) = data;
    let pieces = || bytes.chunks(usize::from(size).max(1));

    let mut guest = GuestHandshake::new();
    'guest: for piece in pieces() {
        let mut input = piece;
        while !input.is_empty() {
            let before = input.len();
            match guest.advance(&mut input, || [7; 16]) {
                Ok(Some(_)) => assert!(input.len() <= before),
                Ok(None) => break,
                Err(_) => break 'guest,
            }
        }
    }

    let mut host = HostHandshake::new([0x5a; 16]);
    for piece in pieces() {
        let mut input = piece;
        if let Ok(Some(_)) = host.advance(&mut input) {
            assert!(bytes.windows(16).any(|window| window == [0x5a; 16]));
            return;
        }
    }
});
