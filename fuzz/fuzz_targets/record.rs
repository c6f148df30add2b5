//! Whatever a guest sends as records, in whatever pieces: no panic, and nothing delivered that no tag ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyro_fuzz::Input;
use pyro_proto::record::{Decoder, MAX_PAYLOAD, header};

const TAG: [u8; 8] = [0xa5; 8];

/// Records that are whole and records that are not, with other bytes between them.
fn records(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() && stream.len() < 4 * MAX_PAYLOAD {
        match input.byte() % 5 {
            0 => stream.extend_from_slice(input.text()),
            1 => stream.extend_from_slice(&TAG),
            2 => stream.extend_from_slice(&header(u32::from(input.pair()) * 3)),
            kind => {
                let (payload, fill) = if kind == 3 { (input.text(), 0) } else { (&[][..], input.pair()) };
                let mut payload = payload.to_vec();
                payload.resize((payload.len() + usize::from(fill) * 3).min(MAX_PAYLOAD), fill as u8);
                stream.extend_from_slice(&header(payload.len() as u32));
                stream.extend_from_slice(&payload);
                stream.extend_from_slice(&TAG);
            }
        }
    }
    stream
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (size, consumed) = (usize::from(input.pair()).max(1), usize::from(input.pair()).max(1));
    let stream = records(&mut input);
    let tags = stream.windows(8).filter(|window| *window == TAG).count();
    let mut decoder = Decoder::new(TAG, &[]);
    let (mut rest, mut whole) = (&stream[..], 0);
    loop {
        match decoder.payload() {
            Err(_) => return,
            Ok(Some(payload)) => {
                let n = payload.len();
                assert!(n > 0 && n <= MAX_PAYLOAD);
                whole += usize::from(n <= consumed);
                assert!(whole <= tags, "more records than tags");
                decoder.consume(n.min(consumed));
            }
            Ok(None) if rest.is_empty() => return,
            Ok(None) => {
                let space = decoder.space();
                assert!(!space.is_empty());
                let n = space.len().min(rest.len()).min(size);
                space[..n].copy_from_slice(&rest[..n]);
                decoder.filled(n);
                rest = &rest[n..];
            }
        }
    }
});
