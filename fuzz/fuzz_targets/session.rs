//! A whole session against a guest that shakes hands and then sends anything as payload: the multiplexer and the
//! frames above it survive, and the driver ends when the input does.
#![no_main]

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::executor::block_on;
use futures::io::{AsyncRead, AsyncWrite};
use libfuzzer_sys::fuzz_target;
use pyro_proto::frame::{FrameReader, MAX_MESSAGE};
use pyro_proto::handshake::{GuestHandshake, GuestStep};
use pyro_proto::link::Link;
use pyro_proto::{mux, record};

/// Answers the handshake like a guest, then plays `script` as records, then ends.
struct Guest {
    handshake: GuestHandshake,
    to_host: Vec<u8>,
    sent: usize,
    script: Vec<u8>,
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = &mut *self;
        let mut input = bytes;
        while let Ok(Some(step)) = this.handshake.advance(&mut input, || [7; 16]) {
            match step {
                GuestStep::Answer(answer) => this.to_host.extend(answer),
                GuestStep::Established(agreement) => {
                    for piece in std::mem::take(&mut this.script).chunks(record::MAX_PAYLOAD) {
                        this.to_host.extend(record::header(piece.len() as u32));
                        this.to_host.extend(piece);
                        this.to_host.extend(agreement.tags.to_host);
                    }
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let n = out.len().min(self.to_host.len() - self.sent);
        out[..n].copy_from_slice(&self.to_host[self.sent..self.sent + n]);
        self.sent += n;
        Poll::Ready(Ok(n))
    }
}

fuzz_target!(|script: &[u8]| {
    let script = script.to_vec();
    let guest = Guest { handshake: GuestHandshake::new(), to_host: Vec::new(), sent: 0, script };
    block_on(async {
        let Ok((link, _)) = Link::connect(guest, [1; 16], futures::future::pending).await else { return };
        let (mut opener, driver) = mux::host(link);
        let call = async {
            if let Ok(stream) = opener.open().await {
                let mut frames = FrameReader::new(stream);
                while let Ok(Some(_)) = frames.next(MAX_MESSAGE).await {}
            }
            drop(opener);
        };
        let _ = futures::future::join(call, driver).await;
    });
});
