//! Every client's file, empty, as people keep it, and broken.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::str::FromStr as _;

use clap::ValueEnum as _;

use super::*;

fn server() -> Server {
    Server::for_tests("/opt/pyro", &["mcp", "serve", "--profile", "workspace-core"])
}

fn merge(client: Client, old: &str) -> Result<String, Unmerged> {
    merged(client, old, &server())
}

/// Merged, and merged again: the second time changes nothing.
#[track_caller]
fn twice(client: Client, old: &str) -> String {
    let new = merge(client, old).unwrap();
    assert_eq!(merge(client, &new).unwrap(), new, "not the same when it is done again");
    new
}

/// `old` with `added` where `old` has a line `@`.
#[track_caller]
fn adds(client: Client, old: &str, added: &str) {
    let without: String = old.split_inclusive('\n').filter(|line| line.trim() != "@").collect();
    let expected: String =
        old.split_inclusive('\n').map(|line| if line.trim() == "@" { added } else { line }).collect();
    assert_eq!(twice(client, &without), expected);
}

#[test]
fn an_empty_file_gets_what_is_printed() {
    let stdio = r#"{
  "mcpServers": {
    "pyro": {
      "type": "stdio",
      "command": "/opt/pyro",
      "args": ["mcp", "serve", "--profile", "workspace-core"]
    }
  }
}
"#;
    for client in [Client::ClaudeCode, Client::Cursor] {
        assert_eq!(twice(client, ""), stdio);
    }
    assert_eq!(twice(Client::Vscode, ""), stdio.replace("mcpServers", "servers"));
    assert_eq!(twice(Client::ClaudeDesktop, ""), stdio.replace("      \"type\": \"stdio\",\n", ""));
    assert_eq!(
        twice(Client::Opencode, ""),
        r#"{
  "mcp": {
    "pyro": {
      "type": "local",
      "command": ["/opt/pyro", "mcp", "serve", "--profile", "workspace-core"]
    }
  }
}
"#
    );
    assert_eq!(
        twice(Client::Codex, ""),
        "[mcp_servers.pyro]\ncommand = \"/opt/pyro\"\nargs = [\"mcp\", \"serve\", \"--profile\", \"workspace-core\"]\n\
         tool_timeout_sec = 600\n"
    );
}

#[test]
fn what_is_there_stays_as_it_is() {
    let old = r#"{
  "numStartups": 12,
  "projects": {"/src": {"mcpServers": {"pyro": {"command": "of a project"}}}},
  "mcpServers": {
    "other":   {"type":"http", "url": "https://example.com/mcp"}
  },
  "tipsHistory": {"é": "\u00e9", "n": 1.50e3}
}"#;
    let pyro = "mcp\"},\n    \"pyro\": {\n      \"type\": \"stdio\",\n      \"command\": \"/opt/pyro\",\n      \
                \"args\": [\"mcp\", \"serve\", \"--profile\", \"workspace-core\"]\n    }\n";
    assert_eq!(twice(Client::ClaudeCode, old), old.replace("mcp\"}\n", pyro));
}

#[test]
fn comments_and_commas_and_indents_stay() {
    let pyro = "\t\t\"pyro\": {\n\t\t\t\"type\": \"stdio\",\n\t\t\t\"command\": \"/opt/pyro\",\n\
                \t\t\t\"args\": [\"mcp\", \"serve\", \"--profile\", \"workspace-core\"]\n\t\t},\n";
    let old = "// of mine\n{\n\t\"inputs\": [], /* none */\n\t\"servers\": {\n\t\t// first\n\
               \t\t\"a\": {\"command\": \"a\"}, // last\n@\n\t},\n}\n";
    adds(Client::Vscode, old, pyro);
    adds(Client::Cursor, &old.replace("\"servers\"", "\"mcpServers\""), pyro);
    let new = twice(Client::Vscode, "{\r\n  \"servers\": {}\r\n}\r\n");
    assert_eq!(new.matches('\n').count(), new.matches("\r\n").count(), "{new:?}");
    let schema = "{\n  \"$schema\": \"https://opencode.ai/config.json\", // checked\n  \"theme\": \"x\"\n}\n";
    let new = twice(Client::Opencode, schema);
    assert!(new.starts_with(schema.trim_end_matches("\n}\n")), "{new}");
    let desktop = twice(Client::ClaudeDesktop, "{\"globalShortcut\": \"\"}");
    assert!(
        desktop.contains(
            "\"globalShortcut\": \"\",
"
        ),
        "{desktop}"
    );
}

#[test]
fn toml_keeps_its_comments_and_its_order() {
    let added = "[mcp_servers.pyro]\ncommand = \"/opt/pyro\"\nargs = [\"mcp\", \"serve\", \"--profile\", \
                 \"workspace-core\"]\ntool_timeout_sec = 600\n\n";
    let old = "# mine\nmodel = \"x\" # the best\n\n[mcp_servers.other]\ncommand = 'o' # literal\nenv = { A = \"b\" }\n\n\
               @\n# about profiles\n[profiles.fast]\nreasoning   = \"low\"\n";
    adds(Client::Codex, old, added);
    let windows = |text: &str| text.replace("@\n", "").replace('\n', "\r\n");
    assert_eq!(twice(Client::Codex, &windows(old)), windows(&old.replace("@\n", added)));
    let inline = "mcp_servers.pyro = { command = \"old\", env = { A = \"b\" } } # c\n[x]\ny = 1\n";
    let new = twice(Client::Codex, inline);
    assert!(
        new.contains("env = { A = \"b\" }") && new.contains("# c") && new.contains("\"/opt/pyro\""),
        "{new}"
    );
    assert!(toml_edit::DocumentMut::from_str(&new).is_ok());
}

#[test]
fn an_entry_is_brought_up_to_date_and_keeps_what_is_not_ours() {
    let old = r#"{
  "mcpServers": {
    "pyro": {
      "command": "/old/pyro", // moved
      "args": [],
      "env": {"PYRO_BACKEND": "qemu"}
    }
  }
}
"#;
    let new = twice(Client::ClaudeDesktop, old);
    let args = "[\"mcp\", \"serve\", \"--profile\", \"workspace-core\"]";
    assert_eq!(new, old.replace("/old/pyro", "/opt/pyro").replace("[]", args));
    let same = "{\"mcpServers\":{\"pyro\":{\"args\":[ \"mcp\",\"serve\", \"--profile\",\n\"workspace-core\"],\
                \"command\":\"\\/opt/pyro\",\"type\":\"stdio\"}}}";
    assert_eq!(twice(Client::Cursor, same), same, "it said that already");
    let old = "[mcp_servers.pyro] # us\ntool_timeout_sec = 30\ncommand = \"/old\" # moved\nargs = []\nenabled = false\n";
    let new = twice(Client::Codex, old);
    assert_eq!(new, old.replace("\"/old\"", "\"/opt/pyro\"").replace("[]", args));
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    for client in Client::value_variants() {
        let (broken, line) = match client.form() {
            Form::Json { .. } => ("{\n  \"a\": 1,\n  \"b\": [1, 2\n", 3..=4),
            Form::Toml { .. } => ("a = 1\n\n[b\nc = 2\n", 3..=3),
        };
        match merge(*client, broken) {
            Err(Unmerged::Unreadable { line: at, column, why }) => {
                assert!(line.contains(&at) && column > 0 && !why.is_empty(), "{client}: {at}:{column} {why}");
            }
            other => panic!("{client}: {other:?}"),
        }
    }
    for broken in ["{'a': 1}", "{a: 1}", "{\"a\": 1 \"b\": 2}", "{\"a\": 0x1}", "{} {}", "\u{1}"] {
        assert!(matches!(merge(Client::Cursor, broken), Err(Unmerged::Unreadable { .. })), "{broken}");
    }
}

#[test]
fn what_is_something_else_is_refused() {
    for odd in
        ["[]", "1", "{\"mcpServers\": []}", "{\"mcpServers\": null}", "{\"mcpServers\": {\"pyro\": \"x\"}}"]
    {
        assert!(matches!(merge(Client::Cursor, odd), Err(Unmerged::Odd { .. })), "{odd}");
    }
    for odd in ["mcp_servers = 1\n", "[mcp_servers]\npyro = 1\n", "[[mcp_servers]]\na = 1\n"] {
        assert!(matches!(merge(Client::Codex, odd), Err(Unmerged::Odd { .. })), "{odd}");
    }
    let remote = "{\"mcpServers\": {\"pyro\": {\"url\": \"https://example.com\"}}}";
    assert!(matches!(merge(Client::Cursor, remote), Err(Unmerged::Other { .. })));
    let remote = "[mcp_servers.pyro]\nurl = \"https://example.com\"\n";
    assert!(matches!(merge(Client::Codex, remote), Err(Unmerged::Other { .. })));
    let two = "{\"mcpServers\": {}, \"mcpServers\": {\"pyro\": {}}}";
    assert!(matches!(merge(Client::Cursor, two), Err(Unmerged::Twice { .. })));
}

#[test]
fn a_file_is_made_and_changed_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/mcp.json");
    let change = |old: &str| merge(Client::Vscode, old);
    assert!(file::write(&path, change).unwrap());
    assert!(!file::write(&path, change).unwrap(), "it was written again");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), merge(Client::Vscode, "").unwrap());

    let link = dir.path().join("link.json");
    symlink("a/b/mcp.json", &link).unwrap();
    std::fs::write(&path, "{} // mine").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(file::write(&link, change).unwrap());
    assert!(link.symlink_metadata().unwrap().is_symlink(), "the link was replaced");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    assert!(std::fs::read_to_string(&path).unwrap().contains("// mine"));

    std::fs::write(&path, "{ broken").unwrap();
    assert!(file::write(&link, change).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{ broken");
    std::fs::remove_file(&path).unwrap();
    assert!(file::write(&link, change).is_err(), "a link to nothing");
    assert!(file::write(dir.path(), change).is_err(), "a directory");
    let names: Vec<_> = std::fs::read_dir(dir.path().join("a/b")).unwrap().collect();
    assert!(names.is_empty(), "left behind: {names:?}");
}

#[test]
fn a_file_that_changes_meanwhile_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".claude.json");
    std::fs::write(&path, "{\"starts\": 1}").unwrap();
    let mut first = true;
    let race = std::cell::RefCell::new(|| {
        if std::mem::take(&mut first) {
            std::fs::write(&path, "{\"starts\": 2}").unwrap();
        }
    });
    let written = file::write(&path, |old| {
        let new = merge(Client::ClaudeCode, old);
        (race.borrow_mut())();
        new
    });
    assert!(written.unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"starts\": 2") && text.contains("/opt/pyro"), "{text}");
}

#[test]
fn a_diff_shows_what_would_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mcp.json");
    std::fs::write(&path, "{\n  \"servers\": {}\n}\n").unwrap();
    let edit = file::Edit::prepare(&path, |old| merge(Client::Vscode, old)).unwrap();
    let shown = diff(&path, &edit);
    assert!(shown.contains("-  \"servers\": {}\n+  \"servers\": {\n+    \"pyro\": {\n"), "{shown}");
    assert!(shown.contains("mcp.json"), "{shown}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"servers\": {}\n}\n");
}

#[test]
fn every_client_has_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let dirs = ClientDirs {
        home: at("home"),
        config: at("config"),
        codex: at("codex"),
        claude: at("home"),
        project: at("project"),
    };
    let file = |client: Client, scope| {
        let path = client.file(scope, &dirs)?;
        Some(path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned())
    };
    let expected = [
        (Client::ClaudeCode, "home/.claude.json", Some("project/.mcp.json")),
        (Client::ClaudeDesktop, "config/Claude/claude_desktop_config.json", None),
        (Client::Codex, "codex/config.toml", Some("project/.codex/config.toml")),
        (Client::Cursor, "home/.cursor/mcp.json", Some("project/.cursor/mcp.json")),
        (Client::Opencode, "config/opencode/opencode.json", Some("project/opencode.json")),
        (Client::Vscode, "config/Code/User/mcp.json", Some("project/.vscode/mcp.json")),
    ];
    assert_eq!(expected.len(), Client::value_variants().len());
    for (client, user, project) in expected {
        assert_eq!(file(client, Scope::User).as_deref(), Some(user));
        assert_eq!(file(client, Scope::Project).as_deref(), project);
    }
    std::fs::create_dir(at("project")).unwrap();
    std::fs::write(at("project/opencode.jsonc"), "{}").unwrap();
    assert_eq!(file(Client::Opencode, Scope::Project).as_deref(), Some("project/opencode.jsonc"));
}

#[test]
fn names_are_those_that_every_client_takes() {
    for good in ["pyro", "a-b_1"] {
        assert!(name(good).is_ok());
    }
    for bad in ["", "a b", "a.b", "é", "\"", &"x".repeat(65)] {
        assert!(name(bad).is_err(), "{bad}");
    }
}
