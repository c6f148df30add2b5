//! Answers of the real API that the adapter relies on, by status and text, which a newer version may word anew.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::guest;
use pyro_vmm::{MachineSpec, VmmError};

/// Sends a request to the machine's own socket, as the adapter does.
fn ask(root: &std::path::Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(root.join("api.sock")).unwrap();
    stream.set_read_timeout(Some(guest::DEADLINE)).unwrap();
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
        if expected == "save while running" {
            assert_eq!(status, 400, "{text}");
        } else {
            assert!(status == 400 && text.contains(expected), "{method} {path}: {status} {text}");
        }
    }
    // The VMM still answers after all these requests.
    machine.pause().await.unwrap();
    machine.resume().await.unwrap();
    machine.stop().await.unwrap();
    place.assert_clean();
}

/// Launches a machine that is refused; gives the refused request and its message.
async fn refused(place: &guest::Place, spec: MachineSpec) -> (&'static str, String) {
    let error = place.firecracker.launch(spec).await.unwrap_err();
    let VmmError::Api { request, status, fault } = error else { panic!("{error:?}") };
    assert_eq!(status, 400, "{fault}");
    place.assert_clean();
    (request, fault)
}

#[tokio::test]
async fn a_configuration_is_refused_by_the_request_that_is_wrong() {
    let place = guest::place();
    let mut spec = place.spec();
    spec.parts.kernel = place.file("garbage", &[0xff; 4096]);
    let (request, fault) = refused(&place, spec).await;
    assert_eq!(request, "PUT /actions");
    assert!(fault.contains("Kernel") || fault.contains("kernel"), "{fault}");

    // A disk opened read-only: not even root can write to it.
    let mut spec = place.spec();
    spec.parts.disk = Some(std::fs::File::open("/proc/version").unwrap());
    let (request, fault) = refused(&place, spec).await;
    assert_eq!(request, "PUT /drives/disk");
    assert!(fault.contains("disk.ext4"), "{fault}");

    // A directory for an initramfs.
    let mut spec = place.spec();
    spec.parts.initramfs = std::fs::File::open("/").unwrap();
    let (request, fault) = refused(&place, spec).await;
    // A file that is really a directory cannot be opened as a file.
    assert_eq!(request, "PUT /boot-source");
    assert!(fault.contains("nitrd"), "{fault}");

    // Some versions refuse an uneven number of processors; this one accepts it.
    let mut spec = place.spec();
    spec.shape.vcpus = 3;
    place.firecracker.launch(spec).await.unwrap().stop().await.unwrap();
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
