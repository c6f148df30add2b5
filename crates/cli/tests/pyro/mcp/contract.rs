//! What is promised before anything runs: the tools of each profile as the contract has them, their words, and the
//! revisions of the protocol.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::support::World;

use super::client::{Client, REVISION};

const PROFILES: [&str; 3] = ["vm-run", "workspace-core", "workspace-full"];

/// What this version has beyond the contract, by tool.
const MORE: [(&str, &[&str]); 7] = [
    ("workspace_create", &["fork_of", "skip_outside_links"]),
    ("workspace_sync_push", &["skip_outside_links"]),
    ("workspace_export", &["skip_outside_links"]),
    ("workspace_logs", &["offset", "sequence", "tail"]),
    ("workspace_diff", &["offset", "verified"]),
    ("workspace_file_read", &["encoding", "offset"]),
    ("workspace_disk_read", &["encoding"]),
];

fn agreed() -> Value {
    serde_json::from_str(include_str!("../data/mcp_tools.json")).unwrap()
}

fn tools(profile: &str) -> Vec<Value> {
    let world = World::bare();
    let client = Client::ready(&world, profile);
    let list = client.ask("tools/list", json!({}));
    assert!(list.get("nextCursor").is_none(), "one page");
    assert_eq!(list, client.ask("tools/list", json!({})), "twice the same");
    client.leave();
    list["tools"].as_array().unwrap().clone()
}

fn fields(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// A parameter's types, those of its items and values, and its default; however the schema says so.
fn shape(schema: &Value) -> Value {
    let one_of = schema["anyOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
    let mut types = BTreeSet::new();
    let mut inner = BTreeMap::new();
    for schema in &one_of {
        match &schema["type"] {
            Value::String(name) => drop(types.insert(name.clone())),
            Value::Array(names) => types.extend(names.iter().map(|name| name.as_str().unwrap().to_owned())),
            other => panic!("no type: {other} in {schema}"),
        }
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                inner.insert(key, if any(&schema[key]) { Value::Null } else { shape(&schema[key]) });
            }
        }
    }
    json!({"types": types, "inner": inner, "default": schema.get("default")})
}

/// A schema that says nothing of types.
fn any(schema: &Value) -> bool {
    schema.get("type").is_none() && schema.get("anyOf").is_none()
}

#[test]
fn each_profile_has_its_tools_and_no_other() {
    let agreed = agreed();
    let mut orders = Vec::new();
    for profile in PROFILES {
        let names = |tools: &[Value]| -> Vec<String> {
            tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
        };
        let (first, again) = (tools(profile), tools(profile));
        assert_eq!(first, again, "another server says the same");
        let there = names(&first);
        let wanted: BTreeSet<&str> =
            agreed["profiles"][profile].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(there.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted, "{profile}");
        assert_eq!(there.len(), wanted.len(), "{profile}: no name twice");
        orders.push(there);
    }
    let full = orders.pop().unwrap();
    for order in orders {
        let same: Vec<_> = full.iter().filter(|name| order.contains(name)).cloned().collect();
        assert_eq!(order, same, "the smaller profiles keep the order of the whole");
    }
}

#[test]
fn every_parameter_is_as_agreed() {
    let there = tools("workspace-full");
    for agreed in agreed()["tools"].as_array().unwrap() {
        let name = agreed["name"].as_str().unwrap();
        let tool = there.iter().find(|tool| tool["name"] == name).unwrap();
        let (wanted, given) = (&agreed["inputSchema"], &tool["inputSchema"]);
        assert_eq!(given["type"], "object", "{name}");
        let required = |schema: &Value| -> BTreeSet<String> {
            let names = schema["required"].as_array().cloned().unwrap_or_default();
            names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(required(wanted), required(given), "{name}: what is required");
        let mut extra = fields(&given["properties"]);
        for (parameter, schema) in fields(&wanted["properties"]) {
            let ours = extra.remove(&parameter).unwrap_or_else(|| panic!("{name} lacks {parameter}"));
            assert_eq!(shape(&schema), shape(&ours), "{name}.{parameter}");
        }
        let more = MORE.iter().find(|(tool, _)| *tool == name).map(|(_, more)| *more).unwrap_or_default();
        assert_eq!(extra.keys().map(String::as_str).collect::<Vec<_>>(), more, "{name}");
        assert!(extra.values().all(|schema| schema.get("default").is_some()), "{name}: {extra:?}");
    }
}

#[test]
fn every_tool_is_described() {
    const READS: [&str; 14] = [
        "vm_list_environments",
        "vm_status",
        "vm_network_info",
        "workspace_list",
        "workspace_status",
        "workspace_logs",
        "workspace_diff",
        "workspace_file_list",
        "workspace_file_read",
        "workspace_disk_list",
        "workspace_disk_read",
        "snapshot_list",
        "shell_read",
        "service_list",
    ];
    for tool in tools("workspace-full") {
        let name = tool["name"].as_str().unwrap();
        let about = tool["description"].as_str().unwrap();
        let sentences = about.split(['.', '?']).filter(|part| !part.trim().is_empty()).count();
        assert!((1..=2).contains(&sentences) && about.len() < 400, "{name}: {about}");
        for (parameter, schema) in fields(&tool["inputSchema"]["properties"]) {
            let about = schema["description"].as_str().unwrap_or_default();
            assert!(about.len() > 3, "{name}.{parameter} is not described");
            assert!(!about.contains('\n'), "{name}.{parameter}: {about}");
        }
        assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{name}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{name}");
        assert!(!fields(&tool["outputSchema"]["properties"]).is_empty(), "{name}");
        for which in ["inputSchema", "outputSchema"] {
            assert!(jsonschema::meta::is_valid(&tool[which]), "{name}: {}", tool[which]);
        }
        let hints = &tool["annotations"];
        let reads = READS.contains(&name) || ["service_status", "service_logs"].contains(&name);
        assert_eq!(hints["readOnlyHint"] == true, reads, "{name}: {hints}");
        if !reads {
            assert!(hints["destructiveHint"].is_boolean(), "{name}: {hints}");
        }
        assert!(hints["openWorldHint"].is_boolean(), "{name}: {hints}");
    }
}

#[test]
fn the_small_profiles_stay_small() {
    let counts = PROFILES.map(|profile| {
        let list = json!({"tools": tools(profile)});
        list.to_string().len() / 4
    });
    println!("tokens of tools/list (bytes of compact JSON / 4): {PROFILES:?} {counts:?}");
    let [alone, core, full] = counts;
    assert!(alone < 1000 && core < 7000 && full < 20_000, "{counts:?}");
}

#[test]
fn every_revision_is_spoken() {
    let world = World::bare();
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let client = Client::start(&world, &["--profile", "workspace-core"]);
        assert_eq!(client.ask("ping", json!({})), json!({}), "also before the handshake");
        let hello = client.initialize(revision);
        assert_eq!(hello["protocolVersion"], revision);
        assert_eq!(hello["serverInfo"]["name"], "pyro");
        assert!(hello["instructions"].as_str().unwrap().contains("workspace_create"), "{hello}");
        assert!(hello["capabilities"]["tools"].is_object(), "{hello}");
        assert_eq!(client.ask("tools/list", json!({}))["tools"].as_array().unwrap().len(), 16);
        assert_eq!(client.ask("ping", json!({})), json!({}));
        assert_eq!(client.ok_without_schema("workspace_list", json!({}))["count"], 0);
        client.leave();
    }
    // One that nobody knows is answered with one that this server speaks.
    let client = Client::start(&world, &[]);
    let hello = client.initialize("1999-01-01");
    assert_eq!(hello["protocolVersion"], REVISION, "{hello}");
    client.leave();
}

#[test]
fn the_revision_without_a_handshake_is_spoken() {
    let world = World::bare();
    let client = Client::start(&world, &["--profile", "workspace-core"]);
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let found = client.ask("server/discover", json!({"_meta": meta}));
    assert!(found["supportedVersions"].as_array().unwrap().contains(&json!("2026-07-28")), "{found}");
    let list = client.ask("tools/list", json!({"_meta": meta}));
    assert_eq!(list["tools"].as_array().unwrap().len(), 16);
    let params = json!({"name": "workspace_list", "arguments": {}, "_meta": meta});
    let done = client.ask("tools/call", params);
    assert_eq!(done["structuredContent"]["count"], 0, "{done}");
    // Without its words the request is refused, and the conversation goes on.
    let refused = client.request("tools/list", json!({}));
    assert!(refused["error"]["message"].is_string(), "{refused}");
    client.ask("tools/list", json!({"_meta": meta}));
    client.leave();
}

#[test]
fn what_else_there_is_can_be_listed() {
    let world = World::bare();
    for (profile, prompts, templates) in [("vm-run", 1, 2), ("workspace-core", 5, 6)] {
        let client = Client::ready(&world, profile);
        let list = client.ask("prompts/list", json!({}));
        assert_eq!(list["prompts"].as_array().unwrap().len(), prompts, "{profile}");
        for prompt in list["prompts"].as_array().unwrap() {
            let given: Map<String, Value> = prompt["arguments"]
                .as_array()
                .unwrap()
                .iter()
                .map(|argument| (argument["name"].as_str().unwrap().to_owned(), "<<given>>".into()))
                .collect();
            let got = client.ask("prompts/get", json!({"name": prompt["name"], "arguments": given}));
            assert!(got["messages"][0]["content"]["text"].as_str().unwrap().contains("<<given>>"), "{got}");
        }
        let list = client.ask("resources/templates/list", json!({}));
        assert_eq!(list["resourceTemplates"].as_array().unwrap().len(), templates, "{profile}");
        assert_eq!(client.ask("resources/list", json!({}))["resources"], json!([]), "{profile}");
        for wrong in ["pyro://workspaces/none/logs", "file:///etc/passwd", "", "pyro://workspaces/../files/x"]
        {
            let refused = client.request("resources/read", json!({"uri": wrong}));
            assert!(refused["error"]["code"].is_i64(), "{wrong}: {refused}");
        }
        let refused = client.request("prompts/get", json!({"name": "none"}));
        assert!(refused["error"]["message"].as_str().unwrap().contains("none"), "{refused}");
        client.leave();
    }
}
