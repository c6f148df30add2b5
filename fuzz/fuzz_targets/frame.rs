//! Whatever is sent in a call's stream: no panic, every body within its bound, every message decoder total.
#![no_main]

use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use pyro_proto::frame::{Channel, FrameReader, MAX_CHUNK, MAX_MESSAGE, decode};
use pyro_proto::message::{ExecEvent, ExecInput, Reply, Request};

fuzz_target!(|bytes: &[u8]| {
    let mut reader = FrameReader::new(bytes);
    block_on(async {
        while let Ok(Some((channel, body))) = reader.next(MAX_MESSAGE).await {
            assert!(body.len() <= if channel == Channel::Message { MAX_MESSAGE } else { MAX_CHUNK });
            if channel == Channel::Message {
                let _ = decode::<ExecEvent>(body);
                let _ = decode::<Reply>(body);
                let _ = decode::<ExecInput>(body);
                let _ = decode::<Request>(body);
            }
        }
    });
});
