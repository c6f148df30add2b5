//! Whether a service is ready.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::support::*;
use pyro_proto::message::*;

async fn ask(client: &Client, probe: ServiceProbe) -> ProbeResult {
    match client.call(&Request::Probe(probe)).await {
        Reply::Probed(readiness) => readiness,
        other => panic!("{other:?}"),
    }
}

fn reason(readiness: ProbeResult) -> String {
    match readiness {
        ProbeResult::NotReady(why) => why,
        ProbeResult::Ready => panic!("ready"),
    }
}

/// Answers every connection with `answer`, and says nothing where that is empty.
fn serve(listener: TcpListener, answer: &'static [u8]) {
    std::thread::spawn(move || {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
            if answer.is_empty() {
                open.push(stream);
            }
        }
    });
}

#[test]
fn ports_addresses_and_files() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        assert!(reason(ask(&client, ServiceProbe::Tcp { port: closed }).await).contains("refused"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(&client, ServiceProbe::Tcp { port }).await, ProbeResult::Ready);
        serve(listener, b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n");
        let url = |port| ServiceProbe::Http { url: format!("http://localhost:{port}/health?x") };
        assert_eq!(ask(&client, url(port)).await, ProbeResult::Ready);
        for (answer, why) in [
            (&b"HTTP/1.1 503 Busy\r\n\r\n"[..], "status 503"),
            (b"no HTTP at all", "HTTP/1"),
            (b"", "no answer within 2000 ms"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            serve(listener, answer);
            let said = reason(ask(&client, url(port)).await);
            assert!(said.contains(why), "{said}");
        }
        let far = Request::Probe(ServiceProbe::Http { url: "http://192.0.2.1/".to_owned() });
        assert!(matches!(client.call(&far).await, Reply::Failed(f) if f.kind == FailureKind::BadRequest));
        let file = |path: &str| ServiceProbe::File { path: path.into() };
        assert!(reason(ask(&client, file("ready")).await).contains("No such file"));
        std::fs::write(agent.workspace("ready"), "").unwrap();
        assert_eq!(ask(&client, file("ready")).await, ProbeResult::Ready);
        assert_eq!(ask(&client, file("/")).await, ProbeResult::Ready);
        let up = Request::Probe(file("../workspace/ready"));
        assert_eq!(client.refused(&up, b"").await, FailureKind::OutsideWorkspace);
    });
}

#[test]
fn a_plain_agent_keeps_no_secrets() {
    run(async {
        let agent = Agent::with_disk();
        let client = agent.client().await;
        let put = Request::SecretPut { name: "x".to_owned(), bytes: "value".into() };
        assert_eq!(client.refused(&put, b"").await, FailureKind::Unsupported);
    });
}
