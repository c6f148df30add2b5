//! What the real API accepts and refuses, by status and text: what the adapter relies on, and what a newer version may
//! word anew.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::guest;
use pyro_vmm::{Reason, VmmError};

/// Asks the machine's own socket, as the adapter does.
fn ask(root: &std::path::Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(root.join("api.sock")).unwrap();
    stream.set_read_timeout(Some(guest::PATIENCE)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut bytes = vec![0; 8192];
    let count = stream.read(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn requests_are_refused_by_status_and_text() {
    let place = guest::place();
    let mut machine = place.firecracker.launch(place.spec()).await.unwrap();
    let root = place.only_root();
    for (method, path, body, expected) in [
        ("GET", "/nonsense", "", "Invalid request method and/or path: GET nonsense."),
        ("PUT", "/nonsense", "{}", "Invalid request method and/or path: PUT nonsense."),
        ("PATCH", "/vm", "{\"state\":\"Flying\"}", "unknown variant `Flying`"),
        ("PATCH", "/vm", "{\"state\":", "EOF while parsing"),
        (
            "PUT",
            "/machine-config",
            "{\"vcpu_count\":1,\"mem_size_mib\":64}",
            "The requested operation is not supported after starting the microVM.",
        ),
        (
            "PUT",
            "/snapshot/load",
            "{\"snapshot_path\":\"state\",\"mem_backend\":{\"backend_type\":\"File\",\"backend_path\":\"memory\"},\"clock_realtime\":true}",
            "unknown field `clock_realtime`",
        ),
        (
            "PUT",
            "/snapshot/load",
            "{\"snapshot_path\":\"state\",\"mem_backend\":{\"backend_type\":\"File\",\"backend_path\":\"memory\"}}",
            "not supported after starting the microVM",
        ),
        (
            "PUT",
            "/snapshot/create",
            "{\"snapshot_type\":\"Full\",\"snapshot_path\":\"s\",\"mem_file_path\":\"m\"}",
            "save while running",
        ),
    ] {
        let (status, text) = ask(&root, method, path, body);
        println!("{method} {path}: {status} {text}");
        if expected == "save while running" {
            assert_eq!(status, 400, "{text}");
        } else {
            assert!(status == 400 && text.contains(expected), "{method} {path}: {status} {text}");
        }
    }
    // None of it did it any harm.
    machine.pause().await.unwrap();
    machine.resume().await.unwrap();
    machine.stop().await.unwrap();
    place.assert_clean();
}

#[tokio::test]
async fn what_is_no_kernel_is_said_by_the_vmm() {
    let place = guest::place();
    let mut spec = place.spec();
    spec.parts.kernel = place.file("garbage", &[0xff; 4096]);
    let error = place.firecracker.launch(spec).await.unwrap_err();
    let VmmError::Died { death, .. } = &error else { panic!("{error:?}") };
    assert_eq!(death.reason, Reason::VmmExit, "{death:?}");
    assert!(death.last_words().is_some_and(|line| line.contains("kernel")), "{death:?}");
    place.assert_clean();
}

#[tokio::test]
async fn a_disk_that_may_not_be_written_is_said_by_the_vmm() {
    let place = guest::place();
    let mut spec = place.spec();
    // A file that nobody can write, whoever they are.
    spec.parts.disk = Some(std::fs::File::open("/proc/version").unwrap());
    let error = place.firecracker.launch(spec).await.unwrap_err();
    let VmmError::Died { death, .. } = &error else { panic!("{error:?}") };
    assert_eq!(death.reason, Reason::VmmExit, "{death:?}");
    assert!(death.stderr_tail.contains("disk.ext4") || death.stderr_tail.contains("drive"), "{death:?}");
    place.assert_clean();
}

#[tokio::test]
async fn a_machine_without_drives_starts() {
    let place = guest::place();
    let mut spec = place.spec();
    (spec.parts.base, spec.parts.disk) = (None, None);
    let machine = place.firecracker.launch(spec).await.unwrap();
    machine.stop().await.unwrap();
    place.assert_clean();
}
