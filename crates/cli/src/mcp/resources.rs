//! Resources that a client may show or attach, by address: files and logs of workspaces, and output of commands whose
//! VM is gone.

use std::path::Path;

use base64::Engine as _;
use pyro_core::workspace::{LogEntry, LogReader, WorkspaceError};
use rmcp::model::{ErrorData, Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

use super::cut;
use super::failure::{Failure, ToolFailureKind};
use super::host::Host;
use super::runs::Stream;

/// Before a workspace's id or name.
const ROOT: &str = "pyro://workspaces/";
/// Before a VM that is gone.
const RUNS: &str = "pyro://runs/";
/// Most commands of one resource.
const LISTED: u64 = 100;
/// Most bytes of one resource.
const MOST: u64 = 4 << 20;

/// Meaning of an address.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    /// A file below `/workspace`.
    File { workspace: String, path: String },
    /// All commands, or one of them.
    Logs { workspace: String, sequence: Option<u64> },
    /// Output of a service.
    Service { workspace: String, name: String },
    /// Output of a command whose VM is gone: all of it, or the part that begins at a byte.
    Run { vm: String, stream: Stream, offset: Option<u64> },
}

impl Address {
    fn parse(uri: &str) -> Option<Self> {
        if let Some(run) = uri.strip_prefix(RUNS) {
            return Self::parse_run(run);
        }
        let (workspace, rest) = uri.strip_prefix(ROOT)?.split_once('/')?;
        let workspace = unescape(workspace)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            ["files", path @ ..] if !path.is_empty() => {
                let path = path.iter().map(|part| unescape(part)).collect::<Option<Vec<_>>>()?.join("/");
                Some(Self::File { workspace, path })
            }
            ["logs"] => Some(Self::Logs { workspace, sequence: None }),
            ["logs", sequence] => Some(Self::Logs { workspace, sequence: Some(sequence.parse().ok()?) }),
            ["services", name, "logs"] => Some(Self::Service { workspace, name: unescape(name)? }),
            _ => None,
        }
    }

    fn parse_run(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (vm, stream, offset) = match parts.as_slice() {
            [vm, stream] => (vm, stream, None),
            [vm, stream, offset] => (vm, stream, Some(offset.parse().ok()?)),
            _ => return None,
        };
        let stream = Stream::ALL.into_iter().find(|known| known.name() == *stream)?;
        Some(Self::Run { vm: (*vm).to_owned(), stream, offset })
    }
}

/// The address of what a command wrote whose VM is gone, or of the part of that which begins at a byte.
pub fn of_run(vm_id: &str, stream: Stream, offset: Option<u64>) -> String {
    let stream = stream.name();
    offset.map_or_else(|| format!("{RUNS}{vm_id}/{stream}"), |at| format!("{RUNS}{vm_id}/{stream}/{at}"))
}

/// Replaces escapes such as `%41`; `None` if the result is no text.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// The kinds of resources, with those of workspaces or without.
pub fn templates(workspaces: bool) -> Vec<ResourceTemplate> {
    let run = |uri: &str, name: &str, about: &str| {
        let template = ResourceTemplate::new(format!("{RUNS}{{vm_id}}/{uri}"), name);
        template.with_description(about).with_mime_type("text/plain")
    };
    let mut all = vec![
        run(
            "{stream}",
            "run_output",
            "What a long-winded command of vm_run or vm_exec wrote: stdout or stderr",
        ),
        run("{stream}/{offset}", "run_output_part", "A part of that, from a byte on"),
    ];
    if !workspaces {
        return all;
    }
    let template = |uri: &str, name: &str, about: &str| {
        ResourceTemplate::new(format!("{ROOT}{{workspace_id}}/{uri}"), name).with_description(about)
    };
    all.extend([
        template(
            "files/{+path}",
            "workspace_file",
            "A file of a running workspace, by its path below /workspace",
        ),
        template("logs", "workspace_logs", "The last commands that ran in a workspace, with their output")
            .with_mime_type("text/plain"),
        template(
            "logs/{sequence}",
            "workspace_command",
            "One command that ran in a workspace, with its output",
        )
        .with_mime_type("text/plain"),
        template("services/{service_name}/logs", "service_logs", "What a service wrote")
            .with_mime_type("text/plain"),
    ]);
    all
}

/// The resources that can be listed: what the last long-winded commands wrote, and the logs of each workspace.
pub async fn list(host: &Host, workspaces: bool) -> Result<Vec<Resource>, ErrorData> {
    let runs = host.runs.ids().into_iter().flat_map(|id| Stream::ALL.map(|stream| (id.clone(), stream)));
    let mut all: Vec<_> = runs
        .map(|(id, stream)| {
            let name = stream.name();
            Resource::new(of_run(&id, stream, None), format!("{id} {name}")).with_mime_type("text/plain")
        })
        .collect();
    if !workspaces {
        return Ok(all);
    }
    let list = host.workspaces.list().await.map_err(|error| of(error.into(), ROOT))?;
    let each = list.workspaces.into_iter().map(|workspace| {
        let name = workspace.name.unwrap_or_else(|| workspace.workspace_id.clone());
        Resource::new(format!("{ROOT}{}/logs", workspace.workspace_id), format!("{name} logs"))
            .with_description(format!("The last commands that ran in {name}, with their output"))
            .with_mime_type("text/plain")
    });
    all.extend(each);
    Ok(all)
}

/// Names of workspaces that begin like this.
pub async fn workspaces_like(host: &Host, beginning: &str) -> Vec<String> {
    let Ok(list) = host.workspaces.list().await else { return Vec::new() };
    let names = list.workspaces.into_iter().map(|each| each.name.unwrap_or(each.workspace_id));
    names.filter(|name| name.starts_with(beginning)).take(100).collect()
}

/// Reads the resource at an address.
pub async fn read(host: &Host, uri: &str, workspaces: bool) -> Result<Vec<ResourceContents>, ErrorData> {
    let address = Address::parse(uri).filter(|address| workspaces || matches!(address, Address::Run { .. }));
    let Some(address) = address else {
        return Err(not_found(
            format!("{uri}: there is no such resource; resources/templates/list shows what there may be"),
            uri,
        ));
    };
    let contents = match address {
        Address::File { workspace, path } => {
            file(host, uri, &workspace, &path).await.map_err(|failure| of(failure, uri))?
        }
        Address::Run { vm, stream, offset } => run(host, uri, &vm, stream, offset)?,
        Address::Logs { workspace, sequence } => {
            let logs = host.workspaces.read_logs(&workspace, sequence.is_none().then_some(LISTED)).await;
            let entries =
                logs.and_then(|logs| entries(logs, sequence, uri)).map_err(|error| of(error.into(), uri))?;
            if sequence.is_some() && entries.is_empty() {
                return Err(not_found(format!("{uri}: there is no such command"), uri));
            }
            let mut text = String::new();
            for entry in entries {
                text.push_str(&format!(
                    "#{} exit_code={}\n$ {}\n",
                    entry.sequence, entry.exit_code, entry.command
                ));
                text.push_str(&entry.stdout);
                if !entry.stderr.is_empty() {
                    text.push_str("--- stderr\n");
                    text.push_str(&entry.stderr);
                }
                text.push('\n');
            }
            ResourceContents::text(short(text), uri)
        }
        Address::Service { workspace, name } => {
            let logs = host.workspaces.service_logs(&workspace, &name, None).await;
            let logs = logs.map_err(|error| of(error.into(), uri))?;
            let stderr =
                if logs.stderr.is_empty() { String::new() } else { format!("--- stderr\n{}", logs.stderr) };
            ResourceContents::text(short(logs.stdout + &stderr), uri)
        }
    };
    Ok(vec![contents])
}

fn run(
    host: &Host,
    uri: &str,
    vm: &str,
    stream: Stream,
    offset: Option<u64>,
) -> Result<ResourceContents, ErrorData> {
    let Some(text) = host.runs.text(vm, stream) else {
        return Err(not_found(
            format!("{uri}: what this VM's command wrote is not kept, or not any more"),
            uri,
        ));
    };
    let Some(offset) = offset else { return Ok(ResourceContents::text(text, uri)) };
    let part = cut::part(&text, offset, |next| of_run(vm, stream, Some(next)));
    Ok(ResourceContents::text(part, uri))
}

/// All of them, or one.
fn entries(mut logs: LogReader, sequence: Option<u64>, uri: &str) -> Result<Vec<LogEntry>, WorkspaceError> {
    let mut found = Vec::new();
    if let Some(sequence) = sequence {
        logs.skip_to(sequence);
        found.extend(logs.next_entry()?.filter(|entry| entry.sequence == sequence));
        return Ok(found);
    }
    while let Some(mut entry) = logs.next_entry()? {
        // However much there is, little is in memory.
        let rest = format!("{uri}/{} has all of it", entry.sequence);
        cut::middle(&mut entry.stdout, cut::STREAM, |_| rest.clone());
        cut::middle(&mut entry.stderr, cut::STREAM, |_| rest);
        found.push(entry);
    }
    Ok(found)
}

async fn file(host: &Host, uri: &str, workspace: &str, path: &str) -> Result<ResourceContents, Failure> {
    let (read, bytes) = host.workspaces.read_file(workspace, Path::new(path), 0, MOST).await?;
    if read.truncated {
        return Err(Failure {
            kind: ToolFailureKind::TooLarge,
            error: format!("{} has {} bytes, and a resource at most {MOST}", read.path, read.size_bytes),
            next: Some("workspace_file_read reads it part by part".into()),
        });
    }
    Ok(match String::from_utf8(bytes) {
        Ok(_) => ResourceContents::text(read.content, uri),
        Err(error) => {
            let text = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            ResourceContents::blob(text, uri).with_mime_type("application/octet-stream")
        }
    })
}

/// The end is what readers of a log want.
fn short(mut text: String) -> String {
    cut::middle(&mut text, MOST as usize, |_| "a command's own resource has all of it".into());
    text
}

/// Clients find the address as data.
fn not_found(text: String, uri: &str) -> ErrorData {
    ErrorData::resource_not_found(text, Some(json!({ "uri": uri })))
}

/// A resource's failure is the protocol's.
fn of(failure: Failure, uri: &str) -> ErrorData {
    let text = match failure.next {
        Some(next) => format!("{}; {next}", failure.error),
        None => failure.error,
    };
    match failure.kind {
        ToolFailureKind::NotFound => not_found(text, uri),
        ToolFailureKind::Failed | ToolFailureKind::Unavailable => ErrorData::internal_error(text, None),
        ToolFailureKind::InvalidArgument
        | ToolFailureKind::Conflict
        | ToolFailureKind::WrongState
        | ToolFailureKind::NotAllowed
        | ToolFailureKind::TooLarge
        | ToolFailureKind::NoSpace
        | ToolFailureKind::Rejected
        | ToolFailureKind::GuestFailed => ErrorData::invalid_params(text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let file =
            |workspace: &str, path: &str| Address::File { workspace: workspace.into(), path: path.into() };
        let some = [
            ("pyro://workspaces/a/files/src/main.py", file("a", "src/main.py")),
            ("pyro://workspaces/a/files/b%20c%2fd", file("a", "b c/d")),
            ("pyro://workspaces/a/files/..", file("a", "..")),
            ("pyro://workspaces/a/logs", Address::Logs { workspace: "a".into(), sequence: None }),
            ("pyro://workspaces/a/logs/7", Address::Logs { workspace: "a".into(), sequence: Some(7) }),
            (
                "pyro://workspaces/a/services/web/logs",
                Address::Service { workspace: "a".into(), name: "web".into() },
            ),
        ];
        for (uri, address) in some {
            assert_eq!(Address::parse(uri), Some(address), "{uri}");
        }
        let run = |offset| Some(Address::Run { vm: "a".into(), stream: Stream::Err, offset });
        assert_eq!(Address::parse("pyro://runs/a/stderr"), run(None));
        assert_eq!(Address::parse(&of_run("a", Stream::Err, Some(7))), run(Some(7)));
        for bad in [
            "pyro://runs/a",
            "pyro://runs/a/stdin",
            "pyro://runs/a/stdout/x",
            "",
            "file:///etc/passwd",
            "pyro://workspaces/",
            "pyro://workspaces/a",
            "pyro://workspaces/a/files",
            "pyro://workspaces/a/files/%",
            "pyro://workspaces/a/files/%f",
            "pyro://workspaces/a/files/%ff",
            "pyro://workspaces/a/files/%zz",
            "pyro://workspaces/a/logs/x",
            "pyro://workspaces/a/services/web",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }
}
