//! What users do to a tree, each with what it means for the checks: content that a user replaces or removes is gone by his own will.

use crate::{disk::File, sim::Sim, world::path};
use rand::{rngs::SmallRng, seq::IndexedRandom};

impl Sim {
    pub fn write_in_place(&mut self, node: usize, at: &str) {
        let at = path(at);
        if self.world().nodes[node].disk.stat(&at).is_none() {
            return;
        }
        let content = self.world().new_content();
        let mut world = self.world();
        world.user_writes(node, &at, content);
        let tick = world.tick();
        let said = format!("   {at} = {}", world.name(content));
        world.note(said);
        let old = world.nodes[node].disk.tree.get_mut(&at).map(|file| {
            let old = file.content;
            file.write(content, tick);
            old
        });
        world.past.dropped.extend(old);
    }

    pub fn write_again(&mut self, node: usize, at: &str) {
        let place = path(at);
        let there = self.world().nodes[node].disk.tree.get(&place).map(|file| file.content);
        if let Some(content) = there {
            self.world().past.rewritten.insert((place, content));
            self.write_content(node, at, content);
        }
    }

    pub fn remove(&mut self, node: usize, at: &str) {
        let mut world = self.world();
        if let Some(old) = world.nodes[node].disk.tree.remove(&path(at)) {
            world.past.dropped.insert(old.content);
        }
        world.notice(node, &path(at));
    }

    pub fn rename(&mut self, node: usize, from: &str, to: &str) {
        let to = path(to);
        let mut world = self.world();
        let tick = world.tick();
        let Some(file) = world.nodes[node].disk.tree.remove(&path(from)) else { return };
        let content = file.content;
        if let Some(old) = world.nodes[node].disk.tree.remove(&to) {
            world.past.dropped.insert(old.content);
        }
        world.nodes[node].disk.put(&to, file, tick);
        world.user_writes(node, &to, content);
        world.notice(node, &path(from));
        world.past.dropped.remove(&content);
    }

    /// Somebody writes to a file that was exchanged out and is in the trash as an old version.
    pub fn late_write(&mut self, node: usize, rng: &mut SmallRng) {
        let index = self.world().nodes[node].index.clone();
        let old: Vec<_> = index.trash().expect("the trash").into_iter().filter(|entry| !entry.lost).collect();
        let Some(entry) = old.choose(rng) else { return };
        let content = self.world().new_content();
        let mut world = self.world();
        let tick = world.tick();
        let said = format!("   {} = {}, in the trash", entry.path, world.name(content));
        world.note(said);
        let Some(file) = world.nodes[node].disk.trash.get_mut(&entry.id) else { return };
        let old = file.content;
        File::write(file, content, tick);
        // Written into the trash, twice.
        if world.past.written.iter().any(|written| written.late && written.content == old) {
            world.past.dropped.insert(old);
        }
        world.user_writes(node, &entry.path, content);
        world.past.written.last_mut().expect("it was written").late = true;
    }
}
