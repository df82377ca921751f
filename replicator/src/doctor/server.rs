//! The NATS server itself: whether it can be reached, its version, what it promises of its disk, how large messages may be.

use super::{
    broker::{Facts, Reached},
    finding::Finding,
};
use common::broker::ServerVersion;
use indicatif::HumanBytes;

/// The server that nobody has seen losing what it acknowledged and synced.
const SAFE: ServerVersion = ServerVersion::new(2, 15, 0);
/// A chunk of a blob with its headers.
const CHUNK: usize = 260 << 10;
/// The list of 1,000 hashes that a node may ask for, and the longest event, with room.
const LEAST: usize = 128 << 10;

pub fn judge_reached(reached: &Reached) -> Finding {
    match reached {
        Reached::There(facts) if facts.embedded => {
            Finding::ok("broker", format!("the embedded one at {} answers", facts.server))
        }
        Reached::There(facts) => Finding::ok("broker", format!("{} answers", facts.server)),
        Reached::Idle(program, _) => {
            let found = format!("the embedded one does not run; {} is there", program.display());
            Finding::ok("broker", format!("{found} for the first process to start"))
        }
        Reached::Away(trouble) => Finding::wrong("broker", &trouble.text)
            .why("changes wait on disk until it is back; what it would tell was not checked")
            .hint(trouble.hint.as_ref()),
    }
}

/// A range of versions, both ends included, that loses acknowledged data, and what happens there.
struct Loss {
    from: ServerVersion,
    to: ServerVersion,
    what: &'static str,
}

/// Only what is known for sure. What a single server forgets, the nodes give it again; a cluster that forgets a stream does it over and over.
const LOSSES: [Loss; 1] = [Loss {
    from: ServerVersion::new(2, 10, 20),
    to: ServerVersion::new(2, 10, 22),
    what: "when servers of a cluster are killed, it may forget whole streams (fixed in 2.10.23)",
}];

const UPDATE: &str = "go install github.com/nats-io/nats-server/v2@latest";

pub fn judge_version(text: &str) -> Finding {
    let Ok(version) = text.parse::<ServerVersion>() else {
        return Finding::note("version", format!("nats-server {text:?}, which is no version known here"));
    };
    let found = format!("nats-server {version}");
    if version < ServerVersion::OLDEST {
        return Finding::wrong("version", format!("{found}; {} or newer is needed", ServerVersion::OLDEST))
            .why("older ones lack what the wire format relies on")
            .cure(UPDATE);
    }
    if let Some(loss) = LOSSES.iter().find(|loss| (loss.from..=loss.to).contains(&version)) {
        return Finding::wrong("version", found).why(loss.what).cure(UPDATE);
    }
    if version < SAFE {
        return Finding::note("version", found)
            .why("before 2.15 it may lose acknowledged messages when it compacts its files, even where it syncs always; nodes heal that")
            .cure(UPDATE);
    }
    Finding::ok("version", found)
}

pub fn judge_durability(version: &str, embedded: bool) -> Finding {
    const WHY: &str = "acknowledged before the disk has it, the last two minutes are lost with a power cut; the nodes publish them again";
    let syncs = version.parse::<ServerVersion>().is_ok_and(|version| version >= ServerVersion::SYNCS);
    match (syncs, embedded) {
        (true, true) => Finding::ok("durability", "sync_interval: always, as it was started here"),
        (true, false) => Finding::note("durability", "its sync_interval cannot be asked from here")
            .why(WHY)
            .cure("jetstream { sync_interval: always }  # in the configuration of nats-server"),
        (false, _) => Finding::note("durability", format!("nats-server {version} cannot sync each message"))
            .why(WHY)
            .cure("update it to 2.10 or newer, and set sync_interval: always"),
    }
}

pub fn judge_max_payload(most: usize) -> Finding {
    let found = HumanBytes(most as u64).to_string();
    let cure = "max_payload: 1MB  # in the configuration of nats-server; the default";
    match most {
        // It says nothing: there is no limit.
        0 => Finding::ok("max_payload", "not told"),
        most if most < LEAST => Finding::wrong("max_payload", found)
            .why(format!("events and lists of up to {} do not fit", HumanBytes(LEAST as u64)))
            .cure(cure),
        most if most < CHUNK => Finding::note("max_payload", found)
            .why("blobs are cut into smaller chunks for it, which takes more messages")
            .cure(cure),
        _ => Finding::ok("max_payload", found),
    }
}

/// Copies of streams that are not up to date.
pub fn judge_replicas(facts: &Facts) -> Finding {
    let there =
        facts.streams.iter().filter_map(|stream| Some((&stream.name, stream.there.as_ref().ok()?.as_ref()?)));
    let mut fewest = None::<u64>;
    for (name, stream) in there {
        let copies = stream.config.num_replicas.max(1);
        fewest = Some(fewest.map_or(copies, |fewest| fewest.min(copies)));
        let Some(cluster) = &stream.cluster else { continue };
        if copies > 1 && cluster.leader.as_ref().is_none_or(String::is_empty) {
            return Finding::wrong("replicas", format!("{name} has no leader"))
                .why("nothing can be stored in it until most of its servers are back")
                .cure(format!("nats stream info {name}  # names its servers; start them"));
        }
        if let Some(behind) = cluster.replicas.iter().find(|replica| replica.offline || !replica.current) {
            let how = if behind.offline { "is offline" } else { "is behind" };
            return Finding::wrong("replicas", format!("the copy of {name} on {} {how}", behind.name))
                .why("one server less may be lost until it has caught up")
                .cure(format!("nats stream info {name}  # start that server, or let it catch up"));
        }
    }
    match fewest {
        None => Finding::ok("replicas", "there is no stream yet"),
        Some(1) => Finding::ok("replicas", "one copy on the broker, besides those of the nodes"),
        Some(copies) => Finding::ok("replicas", format!("{copies} copies, all up to date")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        broker::{Cluster, Config, Contents, Replica, Stream, StreamFacts, Which},
        finding::Verdict::{Note, Ok, Wrong},
        folders::Trouble,
    };

    #[test]
    fn versions_that_lose_data_are_named() {
        for (version, verdict) in [
            ("2.9.9", Wrong),
            ("2.9.10", Note),
            ("2.10.19", Note),
            ("2.10.20", Wrong),
            ("2.10.22", Wrong),
            ("2.10.23", Note),
            ("2.12.3", Note),
            ("2.14.9", Note),
            ("2.15.0", Ok),
            ("v2.15.2-RC.1", Ok),
            ("3.0.0", Ok),
            ("dev", Note),
        ] {
            assert_eq!(judge_version(version).verdict, verdict, "{version}");
        }
    }

    #[test]
    fn durability_is_known_of_the_embedded_one_only() {
        for (version, embedded, verdict) in
            [("2.15.2", true, Ok), ("2.15.2", false, Note), ("2.9.10", true, Note), ("2.9.10", false, Note)]
        {
            assert_eq!(judge_durability(version, embedded).verdict, verdict, "{version} {embedded}");
        }
        for (most, verdict) in [(0, Ok), (1 << 20, Ok), (200 << 10, Note), (64 << 10, Wrong)] {
            assert_eq!(judge_max_payload(most).verdict, verdict, "{most}");
        }
    }

    #[test]
    fn a_broker_that_is_away_is_one_finding() {
        let hint = Some("is it running?".into());
        let away = judge_reached(&Reached::Away(Trouble { text: "away".into(), hint }));
        assert_eq!((away.verdict, away.cure.as_deref()), (Wrong, Some("is it running?")));
        let idle = Reached::Idle("/usr/bin/nats-server".into(), ServerVersion::OLDEST);
        assert_eq!(judge_reached(&idle).verdict, Ok);
    }

    #[test]
    fn a_copy_that_is_behind_is_wrong() {
        let replica = |current, offline| Replica { name: "n2".into(), current, offline };
        let cluster =
            |leader: &str, replica| Cluster { leader: Some(leader.into()), replicas: vec![replica] };
        for (copies, cluster, verdict) in [
            (1, None, Ok),
            (1, Some(Cluster::default()), Ok),
            (3, Some(cluster("n1", replica(true, false))), Ok),
            (3, Some(cluster("n1", replica(false, false))), Wrong),
            (3, Some(cluster("n1", replica(false, true))), Wrong),
            (3, Some(cluster("", replica(true, false))), Wrong),
        ] {
            let config = Config { num_replicas: copies, ..Config::default() };
            let stream = StreamFacts { config, state: Contents::default(), cluster };
            let mut facts = Facts::of_a_test();
            facts.streams[0] =
                Stream { which: Which::Log, name: "L".into(), there: Result::Ok(Some(stream)) };
            let finding = judge_replicas(&facts);
            assert_eq!(finding.verdict, verdict, "{finding}");
        }
    }
}
