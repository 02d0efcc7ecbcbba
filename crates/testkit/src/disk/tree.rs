//! The files of a disk, as they are and as a loss of power would leave them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fuser::Errno;

/// The number of the uppermost folder.
pub(super) const ROOT: u64 = 1;

type Names = BTreeMap<OsString, u64>;

/// All files. Those that were removed stay, since a process may have them open.
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
}

/// A file or a folder.
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) mode: u16,
    pub(super) modified: SystemTime,
    /// What the last sync made durable.
    durable: Content,
    /// Whether a sync failed.
    is_forgotten: bool,
}

#[derive(Clone)]
pub(super) enum Content {
    File(Vec<u8>),
    Folder(Names),
    Socket,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node::new(Content::Folder(Names::new()), 0o700);
        Self {
            nodes: HashMap::from([(ROOT, root)]),
        }
    }

    pub(super) fn node(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    pub(super) fn names(&mut self, folder: u64) -> Result<&mut Names, Errno> {
        match &mut self.node(folder)?.content {
            Content::Folder(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn bytes_of(&mut self, file: u64) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.node(file)?.content {
            Content::File(bytes) => Ok(bytes),
            _ => Err(Errno::EISDIR),
        }
    }

    pub(super) fn find(&mut self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names(folder)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(super) fn add(
        &mut self,
        folder: u64,
        name: &OsStr,
        content: Content,
        mode: u16,
    ) -> Result<u64, Errno> {
        if self.find(folder, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let number = self.nodes.len() as u64 + ROOT;
        self.names(folder)?.insert(name.to_owned(), number);
        self.nodes.insert(number, Node::new(content, mode));
        Ok(number)
    }

    pub(super) fn remove(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let number = self.find(folder, name)?;
        if self.names(number).is_ok_and(|names| !names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.names(folder)?.remove(name);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        (folder, name): (u64, &OsStr),
        (to, new): (u64, &OsStr),
    ) -> Result<(), Errno> {
        let number = self.find(folder, name)?;
        if let Ok(other) = self.find(to, new)
            && self.names(other).is_ok_and(|names| !names.is_empty())
        {
            return Err(Errno::ENOTEMPTY);
        }
        self.names(folder)?.remove(name);
        self.names(to)?.insert(new.to_owned(), number);
        Ok(())
    }

    pub(super) fn link(&mut self, number: u64, folder: u64, name: &OsStr) -> Result<(), Errno> {
        if self.find(folder, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.names(folder)?.insert(name.to_owned(), number);
        Ok(())
    }

    pub(super) fn sync(&mut self, number: u64) -> Result<(), Errno> {
        let node = self.node(number)?;
        if !node.is_forgotten {
            node.durable = node.content.clone();
        }
        Ok(())
    }

    /// Lets no later sync make a file durable.
    pub(super) fn forget(&mut self, number: u64) {
        if let Ok(node) = self.node(number) {
            node.is_forgotten = true;
        }
    }

    /// Brings everything back to what is durable.
    pub(super) fn lose_power(&mut self) {
        for node in self.nodes.values_mut() {
            node.content = node.durable.clone();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let mut all = Vec::new();
        self.collect(ROOT, Path::new(""), &mut all);
        let length = |number: &u64| match &self.nodes[number].content {
            Content::File(bytes) => bytes.len(),
            _ => 0,
        };
        all.iter().map(|(_, number)| length(number)).sum()
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        self.collect(ROOT, Path::new(""), &mut all);
        all.into_iter().map(|(path, _)| path).collect()
    }

    fn collect(&self, folder: u64, path: &Path, all: &mut Vec<(PathBuf, u64)>) {
        let Some(Content::Folder(names)) = self.nodes.get(&folder).map(|node| &node.content) else {
            return;
        };
        for (name, number) in names {
            let path = path.join(name);
            match self.nodes.get(number).map(|node| &node.content) {
                Some(Content::Folder(_)) => self.collect(*number, &path, all),
                Some(Content::File(_)) => all.push((path, *number)),
                _ => {}
            }
        }
    }
}

impl Node {
    fn new(content: Content, mode: u16) -> Self {
        let durable = match &content {
            Content::File(_) => Content::File(Vec::new()),
            Content::Folder(_) => Content::Folder(Names::new()),
            Content::Socket => Content::Socket,
        };
        Self {
            content,
            mode,
            modified: SystemTime::now(),
            durable,
            is_forgotten: false,
        }
    }
}
