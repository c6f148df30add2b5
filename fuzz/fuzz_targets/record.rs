//! Whatever a guest sends as records, in whatever pieces: no panic, and nothing delivered that no tag ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyro_proto::record::Decoder;

fuzz_target!(|data: (u8, Vec<u8>)| {
    let (size, bytes) = data;
    let tag = [0xa5; 8];
    let mut decoder = Decoder::new(tag, &[]);
    let mut rest = &bytes[..];
    loop {
        match decoder.payload() {
            Err(_) => return,
            Ok(Some(payload)) => {
                let n = payload.len();
                assert!(n > 0 && bytes.windows(8).any(|window| window == tag));
                decoder.consume(n);
            }
            Ok(None) if rest.is_empty() => return,
            Ok(None) => {
                let space = decoder.space();
                let n = space.len().min(rest.len()).min(usize::from(size).max(1));
                space[..n].copy_from_slice(&rest[..n]);
                decoder.filled(n);
                rest = &rest[n..];
            }
        }
    }
});
