//! The modules of one crate: what each declares, imports and refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::visit::Visit;
use syn::{Attribute, Item, Meta, Token, UseTree};

/// The segments of a path as it is written; a leading `::` is an empty first segment.
pub(crate) type Segments = Vec<String>;

/// One module. The root of the crate has no parent.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) parent: Option<usize>,
    /// The file that the module's items stand in.
    pub(crate) file: PathBuf,
    /// Names of the modules above and of this one, those without a file of their own left out.
    pub(crate) path: Segments,
    pub(crate) children: BTreeMap<String, usize>,
    /// Names that are defined here.
    pub(crate) items: BTreeSet<String>,
    /// Names that `use` brings in, public or not, and what each stands for.
    pub(crate) imports: BTreeMap<String, Segments>,
    /// Modules of which `use` brings in everything.
    pub(crate) globs: Vec<Segments>,
    pub(crate) references: Vec<Reference>,
}

/// A path in the text of a module.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) segments: Segments,
    pub(crate) line: usize,
}

/// All modules of a crate; the root is the first.
#[derive(Debug)]
pub(crate) struct Crate {
    pub(crate) modules: Vec<Module>,
}

// === impl Crate ===

impl Crate {
    /// Parses the crate whose root file is `root`; `read` returns the text of a file that exists.
    ///
    /// # Errors
    /// A file is missing or is not Rust; the error names it.
    pub(crate) fn parse(
        root: &Path,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Result<Self, String> {
        let mut parser = Parser {
            read,
            modules: Vec::new(),
        };
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        parser.file(None, "", root, &folder)?;
        Ok(Self {
            modules: parser.modules,
        })
    }
}

struct Parser<'a> {
    read: &'a dyn Fn(&Path) -> Option<String>,
    modules: Vec<Module>,
}

// === impl Parser ===

impl Parser<'_> {
    /// Adds the module `name` of `parent`, whose text is `file` and whose children are in `folder`.
    fn file(
        &mut self,
        parent: Option<usize>,
        name: &str,
        file: &Path,
        folder: &Path,
    ) -> Result<usize, String> {
        let text = (self.read)(file)
            .ok_or_else(|| format!("failed to read {}, which a `mod` names", file.display()))?;
        let parsed = syn::parse_file(&text).map_err(|error| {
            let line = error.span().start().line;
            format!("{}:{line}: {error}", file.display())
        })?;
        let mut path = parent.map_or_else(Vec::new, |parent| self.modules[parent].path.clone());
        if parent.is_some() {
            path.push(name.to_owned());
        }
        self.module(parent, path, file, folder, &parsed.items)
    }

    fn module(
        &mut self,
        parent: Option<usize>,
        path: Segments,
        file: &Path,
        folder: &Path,
        items: &[Item],
    ) -> Result<usize, String> {
        let index = self.modules.len();
        self.modules.push(Module {
            parent,
            file: file.to_owned(),
            path: path.clone(),
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            imports: BTreeMap::new(),
            globs: Vec::new(),
            references: Vec::new(),
        });
        for item in items {
            if only_tests(attributes(item)) {
                continue;
            }
            if let Item::Mod(declared) = item {
                let name = name_of(&declared.ident);
                let inner = folder.join(&name);
                let child = match &declared.content {
                    Some((_, items)) => {
                        self.module(Some(index), path.clone(), file, &inner, items)?
                    }
                    None => {
                        let (text, inner) = self.find(&declared.attrs, file, folder, &name);
                        self.file(Some(index), &name, &text, &inner)?
                    }
                };
                self.modules[index].children.insert(name, child);
                continue;
            }
            if let Some(name) = defines(item) {
                self.modules[index].items.insert(name);
            }
            Collector {
                module: &mut self.modules[index],
            }
            .visit_item(item);
        }
        Ok(index)
    }

    /// The file of a `mod name;`, and the folder of its children.
    fn find(
        &self,
        attributes: &[Attribute],
        file: &Path,
        folder: &Path,
        name: &str,
    ) -> (PathBuf, PathBuf) {
        if let Some(path) = attributes.iter().find_map(path_attribute) {
            let text = tidy(&file.parent().unwrap_or(Path::new("")).join(path));
            let inner = text.parent().unwrap_or(Path::new("")).to_owned();
            return (text, inner);
        }
        let inner = folder.join(name);
        let nested = inner.join("mod.rs");
        let text = if (self.read)(&nested).is_some() {
            nested
        } else {
            folder.join(format!("{name}.rs"))
        };
        (text, inner)
    }
}

/// Notes what one item of a module imports and refers to.
struct Collector<'a> {
    module: &'a mut Module,
}

// === impl Collector ===

impl Collector<'_> {
    fn refer(&mut self, segments: Segments, line: usize) {
        if !segments.is_empty() {
            self.module.references.push(Reference { segments, line });
        }
    }

    fn import(&mut self, tree: &UseTree, mut prefix: Segments) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(name_of(&path.ident));
                self.import(&path.tree, prefix);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix.clone());
                }
            }
            UseTree::Name(name) => {
                let line = name.ident.span().start().line;
                self.import_as(prefix, &name.ident, &name.ident, line);
            }
            UseTree::Rename(rename) => {
                let line = rename.ident.span().start().line;
                self.import_as(prefix, &rename.ident, &rename.rename, line);
            }
            UseTree::Glob(glob) => {
                self.refer(prefix.clone(), glob.star_token.spans[0].start().line);
                self.module.globs.push(prefix);
            }
        }
    }

    fn import_as(
        &mut self,
        mut path: Segments,
        name: &syn::Ident,
        local: &syn::Ident,
        line: usize,
    ) {
        let mut local = name_of(local);
        if name == "self" && !path.is_empty() {
            if local == "self" {
                local = path[path.len() - 1].clone();
            }
        } else {
            path.push(name_of(name));
        }
        self.refer(path.clone(), line);
        self.module.imports.entry(local).or_insert(path);
    }

    /// Finds the paths in what a macro is given, which is not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut segments = Segments::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.refer(std::mem::take(&mut segments), line);
                    }
                    if segments.is_empty() {
                        line = ident.span().start().line;
                        if colons == 2 {
                            segments.push(String::new());
                        }
                    }
                    segments.push(name_of(&ident));
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    // A group of a `use` inside a macro: each of its paths continues the prefix.
                    let prefix = std::mem::take(&mut segments);
                    self.refer(prefix.clone(), line);
                    if colons == 2 && group.delimiter() == Delimiter::Brace {
                        for name in group.stream() {
                            if let TokenTree::Ident(ident) = name {
                                let mut path = prefix.clone();
                                path.push(name_of(&ident));
                                self.refer(path, line);
                            }
                        }
                    } else {
                        self.tokens(group.stream());
                    }
                    colons = 0;
                }
                _ => {
                    self.refer(std::mem::take(&mut segments), line);
                    colons = 0;
                }
            }
        }
        self.refer(segments, line);
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !only_tests(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes: &[Attribute] = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !only_tests(attributes) {
            syn::visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !only_tests(&field.attrs) {
            syn::visit::visit_field(self, field);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !only_tests(&variant.attrs) {
            syn::visit::visit_variant(self, variant);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !only_tests(&arm.attrs) {
            syn::visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !only_tests(&local.attrs) {
            syn::visit::visit_local(self, local);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let prefix = if item.leading_colon.is_some() {
            vec![String::new()]
        } else {
            Segments::new()
        };
        self.import(&item.tree, prefix);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = Segments::new();
        if path.leading_colon.is_some() {
            segments.push(String::new());
        }
        segments.extend(path.segments.iter().map(|segment| name_of(&segment.ident)));
        if let Some(first) = path.segments.first() {
            self.refer(segments, first.ident.span().start().line);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        syn::visit::visit_macro(self, invocation);
        self.tokens(invocation.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
            // serde and others take paths as strings: `with = "crate::units::duration"`.
            for token in list.tokens.clone() {
                if let TokenTree::Literal(literal) = token
                    && let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                    && let Ok(path) = text.parse::<syn::Path>()
                {
                    let segments = path.segments.iter().map(|part| name_of(&part.ident));
                    self.refer(segments.collect(), literal.span().start().line);
                }
            }
        }
    }
}

fn name_of(ident: &syn::Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

/// The name that an item adds to its module.
fn defines(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name_of(ident))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether these attributes leave an item out of every build but that of the unit tests.
fn only_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<Meta>()
                    .is_ok_and(|predicate| needs_test(&predicate))
    })
}

fn needs_test(predicate: &Meta) -> bool {
    match predicate {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") || list.path.is_ident("any") => {
            let inner = list
                .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
                .unwrap_or_default();
            if list.path.is_ident("all") {
                inner.iter().any(needs_test)
            } else {
                !inner.is_empty() && inner.iter().all(needs_test)
            }
        }
        _ => false,
    }
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    if !attribute.path().is_ident("path") {
        return None;
    }
    let Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

/// Takes `..` out of a path without asking the file system.
fn tidy(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            tidied.pop();
        } else {
            tidied.push(part);
        }
    }
    tidied
}
