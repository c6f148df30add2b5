//! Whatever is sent as a message: each decoder is total, and what it understands it says again in the same words.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use pyro_proto::frame::{HEADER, decode, encode};
use pyro_proto::message::{ExecEvent, ExecInput, Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn check<M: Debug + Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(message) = decode::<M>(body) else { return };
    let encoded = encode(&message).unwrap();
    assert_eq!(format!("{message:?}"), format!("{:?}", decode::<M>(&encoded[HEADER..]).unwrap()));
}

fuzz_target!(|bytes: &[u8]| match bytes.split_first() {
    Some((0, body)) => check::<ExecEvent>(body),
    Some((1, body)) => check::<ExecInput>(body),
    Some((2, body)) => check::<Reply>(body),
    Some((_, body)) => check::<Request>(body),
    None => {}
});
