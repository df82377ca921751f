//! `replicator doctor`: whether this machine and the broker are fit for a node, and what to change.
//!
//! Each file has the facts of one part, which it gathers, and plain functions that judge them. Nothing is changed by it: no lock is kept, nothing is made, nothing
//! is stored on the broker. Whatever cannot be looked at is a finding of its own, and the rest goes on.

mod broker;
mod clock;
mod disks;
mod finding;
mod folders;
mod jetstream;
mod limits;
mod ports;
mod processes;
mod public;
mod server;
mod store;
mod survey;
mod web;

pub use public::parse_url;

use broker::Reached;
use common::{
    exit::{Exit, Failure, error_chain},
    nodes::Role,
    root::{Disk, IgnoreRules},
    settings::{Folders, Listen, PlaceSettings, Settings, TransferSettings, WatchSettings},
};
use disks::Mount;
use finding::{Finding, Report};
use limits::Kernel;
use processes::Processes;
use std::io::{self, Write};
use survey::Survey;
use url::Url;

/// What was asked, with the settings that `run` would have.
pub struct Wanted {
    pub transfer: TransferSettings,
    pub place: PlaceSettings,
    pub watch: WatchSettings,
    pub public_url: Option<Url>,
    pub json: bool,
}

/// What was seen of this machine.
struct Machine {
    processes: Processes,
    kernel: Kernel,
    folders: folders::Facts,
    mounts: [Option<Mount>; 2],
    disks: [Option<Disk>; 2],
    survey: Option<Survey>,
    /// Why what is ignored could not be read, if it could not.
    no_rules: Option<String>,
    ports: Vec<(ports::Check, Option<ports::Facts>)>,
}

impl Machine {
    fn look(at: &Folders, listen: Listen, ignore: &[String]) -> Self {
        let processes = Processes::look(at);
        let (rules, ports) = (IgnoreRules::read(&at.root, ignore), ports::checks(listen).iter());
        Self {
            kernel: Kernel::look(),
            folders: folders::Facts::look(at),
            mounts: [&at.root, &at.state].map(|path| disks::mount_of(path)),
            disks: [&at.root, &at.state].map(|path| disks::disk_of(path)),
            survey: rules.as_ref().ok().and_then(|rules| Survey::look(&at.root, rules)),
            no_rules: rules.err().map(|error| error_chain(&error)),
            ports: ports.map(|&check| (check, ports::look(check.1, listen, &processes.running))).collect(),
            processes,
        }
    }

    fn judge(&self, at: &Folders, wanted: &Wanted, owner: Option<u32>) -> Vec<Finding> {
        let Self { processes, kernel, folders, survey, .. } = self;
        let survey = survey.as_ref();
        let coverage = folders.known().and_then(|known| known.coverage);
        let uid = processes.me.uid;
        let [root_mount, state_mount] = self.mounts.each_ref().map(Option::as_ref);
        let [root_disk, state_disk] = self.disks.each_ref().map(Option::as_ref);
        let watches = processes.running.iter().any(|process| process.role == Some(Role::Watcher));
        let has_one = watches && coverage.is_some_and(|coverage| coverage.watched == coverage.folders);
        // The replicator is who places files.
        let count = processes.that_count();
        let places = count.iter().find(|process| process.role == Some(Role::Replicator)).unwrap_or(&count[0]);
        let mut findings = vec![
            processes::judge(processes),
            limits::judge_kernel(kernel),
            limits::judge_descriptors(count, wanted.transfer),
            limits::judge_watches(kernel, survey, coverage),
            limits::judge_inotify(kernel, has_one),
            limits::judge_coverage(coverage),
            folders::judge_root(&at.root, folders),
            disks::judge_kind(disks::Which::Root, root_mount),
            disks::judge_root_disk(&at.root, root_disk, wanted.place.min_free),
            survey::judge_files(&at.root, survey, self.no_rules.as_deref(), uid),
            survey::judge_owner(survey, places, owner),
            folders::judge_state(&at.state, folders, uid),
            disks::judge_kind(disks::Which::State, state_mount),
            disks::judge_state_disk(&at.state, state_disk),
            folders::judge_index(folders),
        ];
        findings.extend(self.ports.iter().map(|(check, facts)| ports::judge(*check, facts.as_ref())));
        findings
    }
}

fn judge_broker(reached: &Reached, machine: &Machine, replicas: u64) -> Vec<Finding> {
    let mut findings = vec![server::judge_reached(reached)];
    match reached {
        Reached::Away(_) => {}
        Reached::Idle(_, version) => {
            let version = version.to_string();
            findings.extend([server::judge_version(&version), server::judge_durability(&version, true)]);
        }
        Reached::There(facts) => {
            let known = machine.folders.known();
            let counted = machine.survey.as_ref().map_or(0, |survey| survey.bytes);
            let tree = known.map_or(0, |known| known.bytes).max(counted);
            let followed = known.is_some_and(|known| known.version > 0);
            findings.extend([
                clock::judge(facts.clock),
                server::judge_version(&facts.version),
                server::judge_durability(&facts.version, facts.embedded),
                server::judge_max_payload(facts.max_payload),
                server::judge_replicas(facts),
                jetstream::judge_account(facts, tree, replicas),
            ]);
            let judge = |stream| jetstream::judge_stream(stream, facts, tree, followed);
            findings.extend(facts.streams.iter().map(judge));
            findings.extend(facts.store.as_ref().map(store::judge));
        }
    }
    findings
}

/// Exit 0: nothing is wrong; 1: something is.
pub async fn run(settings: &Settings, wanted: Wanted) -> Result<Exit, Failure> {
    let at = settings.folders()?;
    let owner = wanted.place.owner.as_ref().map(|owner| owner.look_up()).transpose()?.map(|(uid, _)| uid);
    let (listen, of_machine, ignore) = (settings.http.listen, at.clone(), wanted.watch.ignore.clone());
    let machine = tokio::task::spawn_blocking(move || Machine::look(&of_machine, listen, &ignore));
    let public = async {
        match &wanted.public_url {
            Some(url) => Some(public::look(url, &at.root).await),
            None => None,
        }
    };
    let (machine, reached, public) = tokio::join!(machine, broker::ask(settings), public);
    let machine = machine.map_err(|error| Failure::new(Exit::Failed, error))?;
    let mut findings = machine.judge(&at, &wanted, owner);
    findings.extend(judge_broker(&reached, &machine, settings.store.replicas as u64));
    findings.extend(public.as_ref().map(public::judge));
    let report = Report::new(settings.node.to_string(), settings.mirror.to_string(), findings);
    print(&report, wanted.json).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(report.exit())
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::to_string(report).expect("a report has a JSON form"))?,
        false => writeln!(out, "{report}")?,
    }
    out.flush()
}
