//! The same numbers wherever they are told: in the metrics, in `status`, in the records, by the broker itself, and on the disks.

use e2e::{Http, Mirror, Role, SOON, Tree, content, wait_for, write};
use serde_json::Value;
use std::{collections::BTreeMap, fs};

/// What each source says of the same thing, by its name.
type Said = BTreeMap<String, f64>;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Whether all say the same.
fn agree(what: &str, said: &Said) -> Result<(), String> {
    let mut numbers = said.values();
    let first = numbers.next().expect("somebody who says it");
    if numbers.all(|number| number == first) { Ok(()) } else { Err(format!("{what}: {said:?}")) }
}

/// The log's stream, as the broker's monitoring endpoint has it.
fn stream(mirror: &Mirror) -> Value {
    let jsz = mirror.broker.monitor("/jsz?streams=true&consumers=true");
    let streams = jsz["account_details"][0]["stream_detail"].as_array().expect("streams").iter();
    streams.into_iter().find(|stream| stream["name"] == "MIRROR_MEDIA").expect("the log").clone()
}

/// Everything that can be asked, compared.
fn all_agree(mirror: &mut Mirror, https: &[(String, Role, Http)]) -> Result<(), String> {
    let status = mirror.nodes[0].run(Role::Replicator, &["status", "--json"]).json_lines().remove(0);
    let stream = stream(mirror);
    let mut heads = Said::new();
    heads.insert("broker".into(), number(&stream["state"]["last_seq"]));
    heads.insert("status".into(), number(&status["head"]));
    for (node, role, http) in https {
        let name = format!("{} of {node}", role.name());
        let (samples, record) = (http.metrics(), mirror.nats().record(node, *role).ok_or("no record")?);
        let nodes = status["nodes"].as_array().expect("nodes");
        let row = nodes.iter().find(|row| row["node"] == **node && row["role"] == role.name());
        let row = row.ok_or_else(|| format!("{name} is not in the status"))?;
        heads.insert(format!("metrics, {name}"), samples.of("mediamirror_head"));
        heads.insert(format!("record, {name}"), number(&record["head"]));
        for key in ["version", "parked", "files", "bytes"] {
            let metric = match key {
                "files" | "bytes" => format!("mediamirror_tree_{key}"),
                _ => format!("mediamirror_{key}"),
            };
            let mut said = Said::from([
                ("metrics".into(), samples.of(&metric)),
                ("record".into(), number(&record[key])),
                ("status".into(), number(&row[key])),
            ]);
            match key {
                "version" if *role == Role::Replicator => {
                    let consumers = stream["consumer_detail"].as_array().expect("consumers");
                    let own = format!("replicator-{node}");
                    let consumer = consumers.iter().find(|consumer| consumer["name"] == own.as_str());
                    let consumer = consumer.ok_or("no consumer")?;
                    said.insert("acknowledged".into(), number(&consumer["ack_floor"]["stream_seq"]));
                    let open = number(&consumer["num_pending"]) + number(&consumer["num_ack_pending"]);
                    agree(
                        "left",
                        &Said::from([("broker".into(), open), ("lag".into(), number(&row["lag"]))]),
                    )?;
                }
                "files" => {
                    let node = mirror.nodes.iter().find(|found| found.name == *node).expect("a node");
                    said.insert("disk".into(), Tree::of(&node.root).0.len() as f64);
                }
                _ => {}
            }
            agree(&format!("{key} of the {name}"), &said)?;
        }
    }
    agree("head", &heads)
}

#[test]
fn numbers_agree_with_each_other_and_with_the_brokers_own() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let mut https = Vec::new();
    for node in &mut mirror.nodes {
        for role in Role::ALL {
            let http = Http::start(node, role, &[]);
            https.push((node.name.clone(), role, http));
        }
    }
    mirror.wait_ready();
    for i in 0..60 {
        write(&mirror.nodes[i % 2].path(format!("{}/{i}", i % 7)), &content(&i.to_string(), 100 * i + 1));
    }
    mirror.wait_equal(SOON);
    for i in 0..10 {
        fs::remove_file(mirror.nodes[i % 2].path(format!("{}/{i}", i % 7))).unwrap();
    }
    mirror.nats().publish("mirror.media.poison", b"no event at all");
    wait_for(SOON, "all to say the same", || {
        let files = Tree::of(&mirror.nodes[0].root).0.len();
        all_agree(&mut mirror, &https).and(if files == 50 { Ok(()) } else { Err(format!("{files} files")) })
    });
    // They agree on what happened, not on nothing.
    let samples = https[3].2.metrics();
    assert_eq!((samples.of("mediamirror_head"), samples.of("mediamirror_parked")), (71.0, 1.0));
    let (placed, published) =
        ("mediamirror_files_total{direction=\"in\"}", "mediamirror_files_total{direction=\"out\"}");
    let sum = |role: Role, name: &str| -> f64 {
        https.iter().filter(|(_, of, _)| *of == role).map(|(_, _, http)| http.metrics().of(name)).sum()
    };
    // Each file was published once, and placed where it did not come from.
    assert_eq!((sum(Role::Watcher, published), sum(Role::Replicator, placed)), (60.0, 60.0));
}
