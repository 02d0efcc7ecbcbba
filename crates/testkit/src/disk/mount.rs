//! A disk, as the kernel asks for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use super::tree::{Content, Tree};
use super::{DiskOperation as Op, GATE, Shared};

/// The kernel keeps nothing, so that the disk sees each call.
const KEPT: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;
/// The bits of a mode that say what kind of file it is, and those of a socket.
const KIND: u32 = 0o170_000;
const SOCKET: u32 = 0o140_000;

pub(super) struct Mounted(pub(super) Arc<Shared>);

impl Mounted {
    /// Makes a call, unless the disk hangs or the call is to fail.
    fn call<T>(
        &self,
        op: Op,
        call: impl FnOnce(&mut Tree) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.0.begin(op, false)?;
        call(&mut self.0.state.lock().tree)
    }

    fn add(
        &self,
        folder: INodeNo,
        name: &OsStr,
        content: Content,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        self.call(Op::Create, |tree| {
            let number = tree.add(folder.0, name, content, (mode & 0o7777) as u16)?;
            attributes(tree, number)
        })
    }
}

fn attributes(tree: &mut Tree, number: u64) -> Result<FileAttr, Errno> {
    let node = tree.node(number)?;
    let (kind, size) = match &node.content {
        Content::File(bytes) => (FileType::RegularFile, bytes.len() as u64),
        Content::Folder(_) => (FileType::Directory, 0),
        Content::Socket => (FileType::Socket, 0),
    };
    Ok(FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: node.modified,
        mtime: node.modified,
        ctime: node.modified,
        crtime: node.modified,
        kind,
        perm: node.mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&KEPT, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it a lookup that hangs holds the others by a lock, and no process that waits for it
        // can be killed.
        let parallel = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        parallel.map_err(|_| io::ErrorKind::Unsupported.into())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let result = self.0.begin(Op::Look, name == GATE).and_then(|()| {
            let tree = &mut self.0.state.lock().tree;
            let number = tree.find(parent.0, name)?;
            attributes(tree, number)
        });
        entry(reply, result);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.call(Op::Look, |tree| attributes(tree, number.0)) {
            Ok(attributes) => reply.attr(&KEPT, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let result = self.call(Op::Change, |tree| {
            if let Some(size) = size {
                tree.bytes_of(number.0)?.resize(size as usize, 0);
            }
            let node = tree.node(number.0)?;
            if let Some(mode) = mode {
                node.mode = (mode & 0o7777) as u16;
            }
            match modified {
                Some(TimeOrNow::SpecificTime(time)) => node.modified = time,
                Some(TimeOrNow::Now) => node.modified = SystemTime::now(),
                None => {}
            }
            attributes(tree, number.0)
        });
        match result {
            Ok(attributes) => reply.attr(&KEPT, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let content = if mode & KIND == SOCKET {
            Content::Socket
        } else {
            Content::File(Vec::new())
        };
        entry(reply, self.add(parent, name, content, mode & !umask));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let content = Content::Folder(BTreeMap::new());
        entry(reply, self.add(parent, name, content, mode & !umask));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            self.call(Op::Remove, |tree| tree.remove(parent.0, name)),
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            self.call(Op::Remove, |tree| tree.remove(parent.0, name)),
        );
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let result = self.call(Op::Rename, |tree| {
            tree.rename((parent.0, name), (new_parent.0, new_name))
        });
        empty(reply, result);
    }

    fn link(
        &self,
        _: &Request,
        number: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let result = self.call(Op::Create, |tree| {
            tree.link(number.0, new_parent.0, new_name)?;
            attributes(tree, number.0)
        });
        entry(reply, result);
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.call(Op::Open, |tree| tree.node(number.0).map(|_| ())) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let content = Content::File(Vec::new());
        match self.add(parent, name, content, mode & !umask) {
            Ok(attributes) => {
                let (file, flags) = (FileHandle(0), FopenFlags::empty());
                reply.created(&KEPT, &attributes, Generation(0), file, flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let begun = Instant::now();
        let result = self.call(Op::Read, |tree| {
            let bytes = tree.bytes_of(number.0)?;
            let from = (offset as usize).min(bytes.len());
            let to = from.saturating_add(size as usize).min(bytes.len());
            Ok(bytes[from..to].to_vec())
        });
        match result {
            Ok(bytes) => {
                self.0.transfer(bytes.len(), begun);
                reply.data(&bytes);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let begun = Instant::now();
        if let Err(error) = self.0.begin(Op::Write, false) {
            return reply.error(error);
        }
        let mut state = self.0.state.lock();
        let free = state.capacity.saturating_sub(state.tree.bytes());
        let longest = state.longest_write;
        let written = state.tree.bytes_of(number.0).and_then(|bytes| {
            let from = offset as usize;
            // What lies within the file takes no more room.
            let room = free.saturating_add(bytes.len().saturating_sub(from));
            let length = data.len().min(room).min(longest);
            if length == 0 && !data.is_empty() {
                return Err(Errno::ENOSPC);
            }
            if bytes.len() < from + length {
                bytes.resize(from + length, 0);
            }
            bytes[from..from + length].copy_from_slice(&data[..length]);
            Ok(length)
        });
        if let Ok(node) = state.tree.node(number.0) {
            node.modified = SystemTime::now();
        }
        drop(state);
        match written {
            Ok(length) => {
                self.0.transfer(length, begun);
                reply.written(length as u32);
            }
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let result = self.call(Op::Sync, |tree| tree.sync(number.0));
        if result.is_err() {
            // As Linux does: what could not be written is forgotten, and no later sync writes it.
            self.0.state.lock().tree.forget(number.0);
        }
        empty(reply, result);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.call(Op::Sync, |tree| tree.sync(number.0)));
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = self.call(Op::List, |tree| Ok(tree.names(number.0)?.clone()));
        let names = match names {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        for (at, (name, number)) in (1..).zip(names).skip(offset as usize) {
            let state = &mut self.0.state.lock().tree;
            let kind = attributes(state, number).map_or(FileType::RegularFile, |found| found.kind);
            if reply.add(INodeNo(number), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.0.state.lock();
        let blocks = (state.capacity / BLOCK as usize) as u64;
        let used = (state.tree.bytes() / BLOCK as usize) as u64;
        let free = blocks.saturating_sub(used);
        reply.statfs(blocks, free, free, 0, 0, BLOCK, 255, BLOCK);
    }
}
