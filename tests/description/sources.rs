//! The program's sources as syntax trees, and what their names stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::{File, ImplItem, Item, ItemFn, ItemImpl, ItemStruct, Lit, ReturnType, Signature, Type, UseTree};

/// A function or a method of the program.
pub struct Function {
    /// `http::claims` for `src/http/claims.rs`.
    pub module: String,
    /// The type of a method.
    pub of: Option<String>,
    pub signature: Signature,
    pub body: syn::Block,
}

pub struct Sources {
    files: BTreeMap<String, File>,
    pub functions: Vec<Function>,
    /// The names that each module imports, with their full paths.
    uses: BTreeMap<String, BTreeMap<String, String>>,
    /// The types in the variants of each enum.
    pub variants: BTreeMap<String, BTreeSet<String>>,
    /// The types of each struct's fields.
    pub fields: BTreeMap<String, BTreeMap<String, String>>,
}

impl Sources {
    pub fn read() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = BTreeMap::new();
        read_folder(&root, &root, &mut files);
        assert!(files.len() > 100, "only {} files", files.len());
        let mut sources = Self {
            files: BTreeMap::new(),
            functions: Vec::new(),
            uses: BTreeMap::new(),
            variants: BTreeMap::new(),
            fields: BTreeMap::new(),
        };
        for (module, file) in &files {
            file.items.iter().for_each(|item| sources.add(module, item));
        }
        sources.files = files;
        sources
    }

    /// Every struct of the program.
    pub fn structs(&self) -> impl Iterator<Item = &ItemStruct> {
        self.files.values().flat_map(|file| &file.items).filter_map(|item| match item {
            Item::Struct(item) => Some(item),
            _ => None,
        })
    }

    pub fn function(&self, module: &str, name: &str) -> &ItemFn {
        let items = &self.files.get(module).unwrap_or_else(|| panic!("no module {module}")).items;
        let functions = items.iter().filter_map(|item| match item {
            Item::Fn(function) => Some(function),
            _ => None,
        });
        functions.into_iter().find(|f| f.sig.ident == name).unwrap_or_else(|| panic!("no {module}::{name}"))
    }

    fn add(&mut self, module: &str, item: &Item) {
        match item {
            Item::Use(item) => {
                let uses = self.uses.entry(module.to_owned()).or_default();
                imports(&item.tree, "", module, uses);
            }
            Item::Fn(item) => self.functions.push(Function {
                module: module.to_owned(),
                of: None,
                signature: item.sig.clone(),
                body: (*item.block).clone(),
            }),
            Item::Impl(item) => self.add_methods(module, item),
            Item::Enum(item) => {
                let types = item.variants.iter().flat_map(|variant| &variant.fields);
                let types = types.map(|field| last_name(&field.ty)).collect();
                self.variants.entry(item.ident.to_string()).or_default().extend::<Vec<_>>(types);
            }
            Item::Struct(item) => {
                let named = item
                    .fields
                    .iter()
                    .filter_map(|field| Some((field.ident.as_ref()?.to_string(), last_name(&field.ty))));
                self.fields.entry(item.ident.to_string()).or_default().extend(named);
            }
            _ => {}
        }
    }

    fn add_methods(&mut self, module: &str, item: &ItemImpl) {
        // A conversion is a method `from` of the type that it converts.
        let of = match &item.trait_ {
            None => last_name(&item.self_ty),
            Some((_, path, _)) => {
                let segment = path.segments.last().unwrap();
                let target = last_name(&item.self_ty);
                if segment.ident != "From" || target != "Problem" {
                    return;
                }
                let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return };
                let Some(syn::GenericArgument::Type(from)) = arguments.args.first() else { return };
                format!("From<{}>", last_name(from))
            }
        };
        for method in &item.items {
            if let ImplItem::Fn(method) = method {
                self.functions.push(Function {
                    module: module.to_owned(),
                    of: Some(of.clone()),
                    signature: method.sig.clone(),
                    body: method.block.clone(),
                });
            }
        }
    }

    /// What a path names in a module: `crate::` and imports are followed.
    pub fn resolve(&self, module: &str, names: &[String]) -> String {
        let (first, rest) = names.split_first().unwrap();
        let first = match first.as_str() {
            "crate" => String::new(),
            "super" => parent(module).to_owned(),
            "self" => module.to_owned(),
            name => match self.uses.get(module).and_then(|uses| uses.get(name)) {
                Some(path) => path.clone(),
                None if rest.is_empty() => format!("{module}::{name}"),
                None => name.to_owned(),
            },
        };
        let path = std::iter::once(first).chain(rest.iter().cloned()).filter(|part| !part.is_empty());
        path.collect::<Vec<_>>().join("::")
    }
}

fn read_folder(root: &Path, folder: &Path, files: &mut BTreeMap<String, File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_folder(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.strip_prefix(root).unwrap().with_extension("");
            let module = module.to_str().unwrap().replace('/', "::");
            files.insert(module, syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap());
        }
    }
}

fn parent(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(parent, _)| parent)
}

fn imports(tree: &UseTree, path: &str, module: &str, uses: &mut BTreeMap<String, String>) {
    let join = |name: String| match (path, name.as_str()) {
        (_, "crate") => String::new(),
        ("", "super") => parent(module).to_owned(),
        (path, "super") => parent(path).to_owned(),
        ("", _) => name,
        _ => format!("{path}::{name}"),
    };
    match tree {
        UseTree::Path(item) => imports(&item.tree, &join(item.ident.to_string()), module, uses),
        UseTree::Name(item) if item.ident == "self" => {
            uses.insert(path.rsplit("::").next().unwrap().to_owned(), path.to_owned());
        }
        UseTree::Name(item) => {
            uses.insert(item.ident.to_string(), join(item.ident.to_string()));
        }
        UseTree::Rename(item) => {
            uses.insert(item.rename.to_string(), join(item.ident.to_string()));
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| imports(tree, path, module, uses)),
        UseTree::Glob(_) => {}
    }
}

/// The last name of a type, without references and arguments.
pub fn last_name(of: &Type) -> String {
    match of {
        Type::Reference(inner) => last_name(&inner.elem),
        Type::Path(path) => path.path.segments.last().unwrap().ident.to_string(),
        _ => String::new(),
    }
}

/// The error type of a function that returns a `Result`.
pub fn error_type(signature: &Signature) -> Option<String> {
    let ReturnType::Type(_, returned) = &signature.output else { return None };
    let Type::Path(path) = &**returned else { return None };
    let segment = path.path.segments.last().unwrap();
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    match arguments.args.iter().nth(1) {
        Some(syn::GenericArgument::Type(error)) if segment.ident == "Result" => Some(last_name(error)),
        _ => None,
    }
}

pub fn literal(found: &Lit) -> Option<String> {
    match found {
        Lit::Str(text) => Some(text.value()),
        _ => None,
    }
}
