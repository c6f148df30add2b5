//! Whatever a guest answers to HELLO, in whatever pieces: no panic, and agreement only on our own nonce.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyro_proto::handshake::HostHandshake;

fuzz_target!(|data: (u8, Vec<u8>)| {
    let (size, bytes) = data;
    let mut host = HostHandshake::new([0x5a; 16]);
    for piece in bytes.chunks(usize::from(size).max(1)) {
        let mut input = piece;
        if let Ok(Some(_)) = host.advance(&mut input) {
            assert!(bytes.windows(16).any(|window| window == [0x5a; 16]));
            return;
        }
    }
});
