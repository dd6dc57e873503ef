"""Hostile files by family: what a file could ask for that hangs, fills, breaks or runs a reader.

`FAMILIES` maps a family to its files by name, each a function without arguments, so that none is
built before it is wanted. Files of calls would leave a file called CANARY in the current folder.
"""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import torch

from helpers import checkpoint_files as files
from helpers.mutations import HostileFile
from helpers.pickles import (
    Call,
    Name,
    Pairs,
    Persistent,
    array,
    encoded,
    integer,
    module,
    storage,
    tensor,
    text,
    typed,
    zipped,
)

COMMAND = "touch CANARY"
WORD = "x" * 100_000
ESCAPES = "\x1b[2J\n\r\u202eevil\x07"


def _pt(content):
    return HostileFile(content)


def _beside(value):
    """A tree with a network's weights and something else."""
    return {"state_dict": {"w": tensor()}, "other": value}


def _layers(leaf, width, depth, wrap):
    """Parts that hold the part below `width` times over: width**depth leaves."""
    for _ in range(depth):
        leaf = wrap([leaf] * width)
    return leaf


def _numbered(values):
    return {str(i): value for i, value in enumerate(values)}


# -- code -----------------------------------------------------------------------------------------

CALLS = {
    "os.system": ("os.system", COMMAND),
    "posix.system": ("posix.system", COMMAND),
    "popen": ("subprocess.Popen", [COMMAND]),
    "eval": ("builtins.eval", f"__import__('os').system({COMMAND!r})"),
    "exec": ("builtins.exec", f"import os; os.system({COMMAND!r})"),
    "open": ("builtins.open", "CANARY", "w"),
    "getattr": ("builtins.getattr", Name("os.system"), "__call__"),
    "import": ("importlib.import_module", "antigravity"),
    "path": ("runpy.run_path", "evil.py"),
    "numpy.load": ("numpy.load", "evil.npy"),
    "torch.load": ("torch.serialization.load", "evil.pt"),
    "hub": ("torch.hub.load", "evil/evil", "x"),
    "socket": ("socket.create_connection", ("127.0.0.1", 1)),
    "nested pickle": ("pickle.loads", encoded(Call("os.system", COMMAND))),
    "bytes as a storage": ("torch.storage._load_from_bytes", encoded(Call("os.system", COMMAND))),
    "dotted": ("torch.serialization.os.system", COMMAND),
}


def _calls():
    for name, (function, *arguments) in CALLS.items():
        call = Call(function, *arguments)
        yield f"{name} alone", lambda call=call: HostileFile(encoded(call), ".pkl")
        yield f"{name} beside", lambda call=call: _pt(zipped(_beside(call)))
        yield f"{name} among", lambda call=call: _pt(zipped({"w": tensor(), "v": call}))
        yield f"{name} as state", lambda call=call: _pt(zipped(module({"w": tensor()}, call)))
        yield f"{name} in a tensor", lambda call=call: _pt(zipped({"w": tensor(storage(call))}))
    raw = {
        "inst": b"(S'touch CANARY'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + text(COMMAND) + b"o.",
        "newobj": b"cos\nsystem\n" + text(COMMAND) + b"\x85\x81.",
        "newobj_ex": b"cos\nsystem\n" + text(COMMAND) + b"\x85}\x92.",
        "extension": b"\x82\x01" + text(COMMAND) + b"\x85R.",
        "call of a text": text("os.system") + text(COMMAND) + b"\x85R.",
        "setstate": b"cos\nX\n)\x81}"
        + text("__setstate__")
        + b"cos\nsystem\nsb"
        + text("x")
        + b"b.",
    }
    for name, opcodes in raw.items():
        yield name, lambda opcodes=opcodes: HostileFile(b"\x80\x04" + opcodes, ".pkl")


# -- parts that are shared ------------------------------------------------------------------------


def _cycle(kind):
    made = kind()
    if kind is list:
        made.append(made)
    else:
        made.update({"model": made, "state_dict": made, "a": made})
    return made


def _module_cycle():
    inner = module({"w": tensor()})
    inner.state["_modules"].update(a=inner, b=inner)
    return inner


def _sharing():
    for width in (30, 100, 1000):
        args = _layers((0,), width, 3, tuple)
        yield f"arguments {width}", lambda a=args: _pt(encoded({"a": Call("x.Y", *[a] * 100)}))
    yield "arguments deep", lambda: _pt(encoded({"a": Call("x.Y", _layers(0, 2, 200, tuple))}))
    for wrap in (tuple, list, _numbered):
        tree = lambda wrap=wrap: _layers(1, 10, 60, wrap)  # noqa: E731
        yield f"{wrap.__name__} alone", lambda tree=tree: _pt(encoded(tree()))
        yield f"{wrap.__name__} beside", lambda tree=tree: _pt(zipped(_beside(tree())))
        yield (
            f"{wrap.__name__} in settings",
            lambda tree=tree: _pt(
                zipped({"state_dict": {"w": tensor()}, "args": tree(), "config": {"a": tree()}})
            ),
        )
        yield f"{wrap.__name__} as a key", lambda tree=tree: _pt(encoded(Pairs([(tree(), 1)])))
        yield (
            f"{wrap.__name__} as a shape",
            lambda tree=tree: _pt(zipped({"w": tensor(shape=tree(), stride=tree())})),
        )
        yield (
            f"{wrap.__name__} as a dtype",
            lambda tree=tree: _pt(zipped({"w": array((2,), bytes(8), code=tree())})),
        )
        yield (
            f"{wrap.__name__} as an order",
            lambda tree=tree: _pt(zipped({"w": array((2,), bytes(8), order=tree())})),
        )
        for function in ("collections.OrderedDict", "builtins.set", "torch.Size", "builtins.dict"):
            yield (
                f"{wrap.__name__} to {function}",
                lambda tree=tree, function=function: _pt(encoded(Call(function, tree()))),
            )
    shared = module(_numbered([tensor()] * 1000))
    for width, depth in ((10, 3), (300, 2), (2, 90), (1, 300)):
        tree = _layers(shared, width, depth, lambda parts: module(modules=_numbered(parts)))
        yield f"modules {width} {depth}", lambda tree=tree: _pt(zipped(tree))
        yield (
            f"modules under roots {width} {depth}",
            lambda tree=tree: _pt(
                zipped({str(i): module(modules={"a": tree}) for i in range(100)})
            ),
        )
    yield "module in itself", lambda: _pt(zipped(_module_cycle()))
    yield "list in itself", lambda: _pt(encoded(_cycle(list)))
    yield "dictionary in itself", lambda: _pt(encoded(_cycle(dict)))
    yield (
        "sets of weights",
        lambda: _pt(
            zipped(_layers({"w": tensor()}, 9, 6, lambda p: dict(zip(USUAL, p, strict=False))))
        ),
    )
    yield "lists of weights", lambda: _pt(zipped([[tensor()] * 2000] * 2000))
    yield (
        "many sets of weights",
        lambda: _pt(
            zipped({f"net{i}": {"w": tensor()} for i in range(5000)} | {"model": {"w": tensor()}})
        ),
    )
    large = _numbered([1] * 20_000)
    yield (
        "one dictionary first in many",
        lambda: _pt(zipped([{"a": large} for _ in range(20_000)])),
    )
    yield (
        "many groups",
        lambda: _pt(
            zipped(
                {
                    f"a{i}.b{i}.c{i}": shared_tensor
                    for shared_tensor in [tensor()]
                    for i in range(20_000)
                }
            )
        ),
    )
    yield "type of a type", lambda: _pt(zipped({"w": _typed_chain(5000)}))
    yield (
        "hidden names",
        lambda: _pt(zipped(module(_numbered([tensor()] * 10_000), hidden=["q" * 9] * 100_000))),
    )


USUAL = ("state_dict", "model", "net", "network", "weights", "best", "last", "module", "ema")


def _typed_chain(length):
    made = (Name("torch._utils._rebuild_tensor_v2"), Name("torch.Tensor"), (), None)
    for _ in range(length):
        made = (Name("torch._tensor._rebuild_from_type_v2"), Name("torch.Tensor"), made, None)
    return Call("torch._tensor._rebuild_from_type_v2", *made)


# -- work that a few bytes ask for ----------------------------------------------------------------


def _again(call, count):
    """A call of a shared argument, again and again."""
    return [Call(*call) for _ in range(count)]


def _colliding(count):
    """Numbers whose places in a hash table are the same: multiples of Python's modulus."""
    return Pairs([(i * (2**61 - 1), None) for i in range(1, count)])


def _work():
    long_list, long_dict = [None] * 20_000, {str(i): 1 for i in range(2000)}
    for name, call in {
        "dict": ("builtins.dict", long_dict), "OrderedDict": ("collections.OrderedDict", long_dict),
        "defaultdict": ("collections.defaultdict", None, long_dict),
        "list": ("builtins.list", long_list), "tuple": ("builtins.tuple", long_list),
        "set": ("builtins.set", long_list), "Size": ("torch.Size", long_list),
        "encode": ("_codecs.encode", WORD), "bytes": ("builtins.bytes", WORD, "latin1"),
        "bytearray": ("builtins.bytearray", WORD.encode()), "device": ("torch.device", WORD),
        "tensor": ("torch._utils._rebuild_tensor_v2", None, 0, (1,) * 1000, (1,) * 1000, False, {}),
        "storage": ("torch.storage._load_from_bytes", files.saved(torch.zeros(2), _use_new_zipfile_serialization=False)),
        "global": ("torch.storage._load_from_bytes", encoded([Name("x.y")] * 1000)),
    }.items():  # fmt: skip
        yield f"{name} again", lambda call=call: _pt(encoded(_again(call, 20_000)))
    yield "colliding keys", lambda: _pt(encoded(_colliding(150_000)))
    yield (
        "colliding keys of tuples",
        lambda: _pt(encoded(Pairs([((i * (2**61 - 1),), None) for i in range(1, 100_000)]))),
    )
    yield (
        "one long key again",
        lambda: _pt(
            encoded([Pairs([(key, 1)]) for key in [tuple(range(20_000))] for _ in range(20_000)])
        ),
    )
    yield (
        "one large number again",
        lambda: _pt(
            b"\x80\x04" + integer(10**300_000) + b"\x940]\x94(" + b"}h\x00Ns" * 50_000 + b"e."
        ),
    )
    yield (
        "sparse memo",
        lambda: _pt(
            b"\x80\x04N"
            + b"".join(b"r" + struct.pack("<I", i << 12) for i in range(200_000))
            + b"."
        ),
    )
    yield (
        "array under many names",
        lambda: _pt(
            encoded({str(i): a for a in [array((250_000,), bytes(10**6))] for i in range(20_000)})
        ),
    )
    yield "opcodes", lambda: _pt(b"\x80\x04(" + b"N" * 20_000_000 + b"t.")
    yield "empty lists", lambda: _pt(b"\x80\x04(" + b"]" * 20_000_000 + b"t.")
    yield "marks", lambda: _pt(b"\x80\x04" + b"(" * 20_000_000 + b".")
    yield "placeholders", lambda: _pt(b"\x80\x04cx\nY\n\x940(" + b"h\x00)R" * 3_000_000 + b"t.")
    yield (
        "long names of globals",
        lambda: _pt(b"\x80\x04" + text(WORD) + b"\x940(" + b"h\x00h\x00\x93" * 100_000 + b"t."),
    )
    yield "nested lists", lambda: _pt(b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".")
    yield "nested tuples", lambda: _pt(b"\x80\x04N" + b"\x85" * 500_000 + b".")
    yield (
        "nested settings",
        lambda: _pt(b"\x80\x04" + (b"}" + text("model")) * 50_000 + b"N" + b"s" * 50_000 + b"."),
    )
    yield (
        "200,000 weights",
        lambda: _pt(zipped({f"k{i}": t for t in [tensor()] for i in range(200_000)})),
    )
    yield (
        "pairs of means",
        lambda: _pt(
            zipped(
                {
                    f"{i}.{name}": t
                    for t in [tensor()]
                    for i in range(12_000)
                    for name in ("mean", "std", "x")
                }
            )
        ),
    )


# -- names ----------------------------------------------------------------------------------------

KEYS = {
    "large number": 10**5000, "negative number": -(10**9000), "bytes": b"\xff\n\x1b[31m",
    "escapes": ESCAPES, "surrogates": "\ud800\udfff", "none": None, "tuple": ("a", 10**5000),
    "float": float("nan"), "long": WORD, "dots": "a." * 20_000 + "weight", "empty": "",
    "wrappers": "module." * 10_000 + "weight", "zeros": "\0" * 50, "true": True,
    "tuple of tuples": ((1, 2), "x"), "large tuple": tuple(range(5000)), "list": [1], "dot": ".",
}  # fmt: skip


def _names():
    for name, key in KEYS.items():
        weights = Pairs([(key, tensor())])
        yield f"{name} of a weight", lambda w=weights: _pt(zipped(w))
        yield f"{name} of what is none", lambda k=key: _pt(zipped(Pairs([("w", tensor()), (k, 1)])))
        yield f"{name} of all", lambda k=key: _pt(zipped(Pairs([(k, 1)])))
        yield f"{name} in a module", lambda w=weights: _pt(zipped(module(w)))
        yield (
            f"{name} of a module",
            lambda k=key: _pt(zipped(module(modules=Pairs([(k, module({"w": tensor()}))])))),
        )
        yield f"{name} as container", lambda k=key: _pt(zipped(Pairs([(k, {"w": tensor()})])))
        yield (
            f"{name} in settings",
            lambda k=key: _pt(
                zipped({"state_dict": {"w": tensor()}, "args": Pairs([(k, 1), ("lr", k)]), "x": k})
            ),
        )
        yield (
            f"{name} as a value",
            lambda k=key: _pt(zipped({"w": tensor(), "epoch": k, "loss": k})),
        )
    yield "one twice", lambda: _pt(zipped(Pairs([(1, tensor()), ("1", tensor())])))
    yield "escaped twice", lambda: _pt(zipped({"a\n": tensor(), "a\\n": tensor()}))
    deep = module({"w": tensor()})
    for _ in range(90):
        deep = module(modules={"n" * 1000: deep})
    yield "of long modules", lambda: _pt(zipped(deep))
    yield (
        "many long",
        lambda: _pt(zipped({f"{i}" + "a." * 450: t for t in [tensor()] for i in range(5000)})),
    )


# -- numbers --------------------------------------------------------------------------------------

GEOMETRY = {
    "negative": ((2, -2), (1, 1), 0), "negative stride": ((2,), (-1,), 1), "outside": ((2,), (1,), 3),
    "far outside": ((1,), (1,), 2**62 - 1), "before": ((1,), (1,), -1), "huge": ((2**40,), (1,), 0),
    "expanded": ((10**12,), (0,), 0), "expanded twice": ((10**6, 10**6), (0, 0), 0),
    "much expanded": ((2**24,), (0,), 0), "none of many": ((0, 2**61), (1, 1), 0),
    "none of too many": ((2**61, 2**61, 0), (1, 1, 1), 0), "overflow": ((2, 2), (2**61, 2**61), 0),
    "one far away": ((1,), (2**61,), 0), "nothing far away": ((0,), (1,), 2**61),
    "mismatch": ((2, 2), (1,), 0), "scalar": ((), (), 0), "scalar outside": ((), (), 99),
    "70 dimensions": ((1,) * 70, (1,) * 70, 0), "100,000": ((1,) * 10**5, (1,) * 10**5, 0),
    "32 dimensions": ((1,) * 32, (2**61,) * 32, 0), "float": ((2.0,), (1,), 0), "bool": ((True,), (1,), 0),
    "large": ((10**5000,), (1,), 0), "text": ("ab", "ab", 0), "none": (None, None, None),
    "overlapping": ((1000, 1000), (0, 0), 0), "one and a half": ((3, 2), (1, 1), 0),
}  # fmt: skip
STORAGES = (
    "FooStorage",
    "ComplexFloatStorage",
    "QInt8Storage",
    "UntypedStorage",
    "BoolStorage",
    "",
)
TYPES = ("uint16", "uint64", "float8_e4m3fn", "bits8", "float4_e2m1fn_x2", "nonsense", ESCAPES)


def _numbers():
    for name, (shape, stride, offset) in GEOMETRY.items():
        made = tensor(None, offset, shape, stride)
        yield f"{name} weight", lambda m=made: _pt(zipped({"w": m}))
        yield (
            f"{name} beside",
            lambda m=made: _pt(zipped({"state_dict": {"w": tensor()}, "acc": m})),
        )
        yield (
            f"{name} typed",
            lambda s=shape, t=stride: _pt(zipped({"w": typed("uint16", None, s, t)})),
        )
        yield f"{name} array", lambda s=shape: _pt(encoded({"w": array(s, bytes(8))}))
        yield f"{name} empty array", lambda s=shape: _pt(encoded({"w": array(s, b"")}))
    for kind in STORAGES:
        yield (
            f"storage {kind}",
            lambda k=kind: _pt(zipped({"w": tensor(storage("0", 4, f"torch.{k}"))})),
        )
        for dtype in TYPES:
            yield (
                f"{kind} as {dtype!r}",
                lambda k=kind, d=dtype: _pt(zipped({"w": typed(d, storage("0", 4, f"torch.{k}"))})),
            )
    for size in (0, 5, 2**40, 2**63, 10**100, -1, None, "4", 4.0):
        yield (
            f"storage of {str(size)[:9]}",
            lambda s=size: _pt(zipped({"w": tensor(storage("0", s))})),
        )
    for view in (
        ("1", 0, 4),
        ("1", 2**62, 2**62),
        ("1", -1, 3),
        3,
        ("x",),
        {},
        [1, 0, 2],
        ("1", 3, 9),
    ):
        yield (
            f"piece {str(view)[:20]}",
            lambda v=view: _pt(zipped({"w": tensor(storage("0", 4, "torch.FloatStorage", v))})),
        )
    ids = {
        "nothing": None, "a number": 1, "empty": (), "a class": ("module", Name("a.b"), "x", "y"),
        "half": ("storage",), "a number's key": ("storage", Name("torch.FloatStorage"), 3, "cpu", 3),
        "a text's kind": ("storage", "x", "0", "cpu", 3), "a path": storage("../../etc/passwd").id,
        "a zero": storage("\0").id, "a surrogate": storage("\ud800").id, "long": storage(WORD).id,
    }  # fmt: skip
    for name, pid in ids.items():
        yield f"storage by {name}", lambda p=pid: _pt(zipped({"w": tensor(Persistent(p))}))
        yield f"root by {name}", lambda p=pid: _pt(encoded(Persistent(p)))
    for code in (
        "b4",
        "f1",
        "i1",
        "u1",
        "f2",
        "f8",
        "f16",
        "O",
        "V8",
        "M8",
        "b1",
        "c8",
        "f4\n",
        "S4",
        4,
        None,
    ):
        made = array((2,), bytes(8), code)
        yield f"array of {code!r}", lambda m=made: _pt(encoded({"w": m}))
        scalar = Call("numpy.core.multiarray.scalar", made.state[2], bytes(8))
        yield (
            f"scalar of {code!r}",
            lambda s=scalar: _pt(zipped({"state_dict": {"w": tensor()}, "acc": s})),
        )
    for name, data in {
        "text": "abcdefgh",
        "none": None,
        "list": [1],
        "number": 10**400,
        "odd": b"123",
    }.items():
        yield f"array from {name}", lambda d=data: _pt(zipped({"w": array((2,), d)}))
    for value in (float("nan"), float("inf"), 3e38):
        raw = struct.pack("<f", value) * 4
        yield (
            f"weights of {value}",
            lambda r=raw: _pt(zipped({"w": tensor(), "mean": tensor(), "std": tensor()}, {"0": r})),
        )
    yield (
        "truth values of 255",
        lambda: _pt(
            zipped({"w": tensor(storage("0", 4, "torch.BoolStorage"))}, {"0": b"\xff\x80\x02\x00"})
        ),
    )


# -- parts of weights -----------------------------------------------------------------------------


def _filled(parts, kind="Float"):
    """A file of tensors by name and shape, all ones."""
    tree, stored = {}, {}
    item = struct.pack("<f", 1) if kind == "Float" else struct.pack("<q", 1)
    for index, (name, shape) in enumerate(parts.items()):
        size = int(np.prod(shape))
        stride = tuple(int(np.prod(shape[d + 1 :])) for d in range(len(shape)))
        tree[name] = tensor(storage(str(index), size, f"torch.{kind}Storage"), 0, shape, stride)
        stored[str(index)] = item * size
    return zipped(tree, stored)


PARTS = {
    "mask of another length": {"w_orig": (4,), "w_mask": (3,)},
    "mask across": {"w_orig": (1, 60_000), "w_mask": (60_000, 1)},
    "mask of a column": {"w_orig": (4, 4), "w_mask": (4, 1)},
    "mask over a weight": {"w": (4,), "w_orig": (4,), "w_mask": (4,)},
    "norm of another length": {"w_g": (4,), "w_v": (3,)},
    "norm of two scalars": {"w_g": (), "w_v": ()},
    "norm of more dimensions": {"w_g": (1, 1, 1, 4), "w_v": (4,)},
    "norm across": {"w_g": (1, 50_000), "w_v": (50_000, 1)},
    "norm of nothing": {"w_g": (0, 1), "w_v": (0, 4)},
    "norm of a matrix": {"w_g": (4, 4), "w_v": (4, 4)},
    "spectral of another length": {"w_orig": (4,), "w_u": (3,), "w_v": (3,)},
    "spectral of nothing": {"w_orig": (0, 4), "w_u": (3,), "w_v": (3,)},
    "spectral of nothing at all": {"w_orig": (0, 4), "w_u": (0,), "w_v": (4,)},
    "spectral of a scalar": {"w_orig": (), "w_u": (1,), "w_v": (1,)},
    "spectral of matrices": {"w_orig": (2, 2), "w_u": (2, 1), "w_v": (2, 1)},
    "new spectral": {f"parametrizations.weight.{n}": (s,) for n, s in (("original", 4), ("0._u", 3), ("0._v", 3))},
    "new norm": {"parametrizations.weight.original0": (5,), "parametrizations.weight.original1": (3, 3)},
    "mean of nothing": {"mean": (0,), "std": (0,), "w": (3,)},
    "mean of another length": {"mean": (3,), "std": (1,), "w": (3,)},
    "mean alone": {"mean": (3,), "w": (3,)},
}  # fmt: skip


def _parts():
    for name, parts in PARTS.items():
        yield name, lambda p=parts: _pt(_filled(p))
        yield f"{name}, integers", lambda p=parts: _pt(_filled(p, "Long"))
    yield (
        "many masks",
        lambda: _pt(
            _filled({f"{i}.w_{end}": (2,) for i in range(5000) for end in ("orig", "mask")})
        ),
    )


# -- safetensors ----------------------------------------------------------------------------------

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "none": {}, "list": [], "null": None, "number": 5, "entry a list": {"w": []}, "entry null": {"w": None},
    "no shape": {"w": {"dtype": "F32", "data_offsets": [0, 8]}}, "shape a text": {"w": ENTRY | {"shape": "ab"}},
    "huge": {"w": ENTRY | {"shape": [2**40, 2**40]}}, "negative": {"w": ENTRY | {"shape": [-2]}},
    "none of many": {"w": ENTRY | {"shape": [0, 2**62], "data_offsets": [0, 0]}},
    "none of too many": {"w": ENTRY | {"shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}},
    "float": {"w": ENTRY | {"shape": [2.0]}}, "before": {"w": ENTRY | {"data_offsets": [-8, 0]}},
    "beyond": {"w": ENTRY | {"data_offsets": [0, 2**63]}}, "three offsets": {"w": ENTRY | {"data_offsets": [0, 4, 8]}},
    "offsets null": {"w": ENTRY | {"data_offsets": None}}, "gap": {"w": ENTRY | {"data_offsets": [8, 16]}},
    "overlap": {"v": ENTRY, "w": ENTRY}, "100 dimensions": {"w": ENTRY | {"shape": [1] * 100}},
    "metadata a list": {"__metadata__": [], "w": ENTRY}, "metadata nested": {"__metadata__": {"a": {}}, "w": ENTRY},
    "long name": {WORD: ENTRY}, "escapes": {ESCAPES: ENTRY}, "ok": {"w": ENTRY},
}  # fmt: skip
METADATA = {
    "extra": ("[1]", '"ab"', "5", '[["a", 1]]', '{"a":' * 900 + "1" + "}" * 900, '{"a": [{}]}', '{"a": NaN}',
              '{"training": 5}', '{"training": [{"data": {}}]}', json.dumps({ESCAPES: ESCAPES}), "1" * 5000),
    "model": ("{", "5", '"evil.py:build"', '"torchvision:os.system"', '"timm:hf-hub:evil/evil"', '""', '":"',
              '"torchvision:get_model"', json.dumps(ESCAPES)),
    "num_classes": ("0", "1" + "0" * 18, "1" + "0" * 400, "2.0", "true", "-3"),
    "input_shape": ("[1, 2]", "[1, 1000000000000, 1]", "[1, -2, 3]", '["a", 1, 2]', "[]"),
    "resize": ("100000000",), "label_noise": ("1e400", "1" + "0" * 400, "5.0"), "seed": ("1" + "0" * 4000,),
    "recorded_accuracy": ("1e308",), "trained_on": ('"../../../etc/passwd"',), "normalised": ("5",), "evil": ("1",),
}  # fmt: skip


def _safetensors(header, data=bytes(8), length=None):
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(body) if length is None else length
    return HostileFile(struct.pack("<Q", size) + body + data, ".safetensors")


def _headers():
    for name, header in HEADERS.items():
        yield name, lambda h=header: _safetensors(h)
    for dtype in (
        "F4",
        "F6_E2M3",
        "F8_E8M0",
        "F8_E4M3",
        "F8_E5M2",
        "C64",
        "BOOL",
        "U16",
        "X9",
        "",
        ESCAPES,
    ):
        for size in (1, 2, 3, 4, 8, 16):
            entry = {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}
            yield (
                f"{size} bytes of {dtype!r}",
                lambda e=entry, s=size: _safetensors({"w": e}, b"\2" * s),
            )
    for name, values in METADATA.items():
        for index, value in enumerate(values):
            table = {"__metadata__": {f"robustkit.{name}": value}, "w": ENTRY}
            yield f"{name} {index}", lambda t=table: _safetensors(t)
    for length in (0, 1, 2**62, 2**63, 2**64 - 1):
        yield f"length {length}", lambda n=length: _safetensors({"w": ENTRY}, length=n)
    yield "deep", lambda: _safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "twice", lambda: _safetensors(b'{"w": %b, "w": %b}' % ((json.dumps(ENTRY).encode(),) * 2))
    yield "no text", lambda: _safetensors(b"{\xff\xfe}")
    yield "large", lambda: _safetensors(b"[" + b"[]," * 10**7 + b"1]")
    yield (
        "many",
        lambda: _safetensors(
            {str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(60_000)},
            b"",
        ),
    )
    for means in (
        ("[NaN]", "[1]"),
        ("[1e999]", "[1.0]"),
        ("[0.0]", "[-1.0]"),
        ("[0.0]", "[0.0]"),
        ("[" + "1" * 400 + "]", "[1]"),
    ):
        table = {
            "__metadata__": {"robustkit.mean": means[0], "robustkit.std": means[1]},
            "w": ENTRY,
        }
        yield f"mean {means[0][:9]} {means[1]}", lambda t=table: _safetensors(t)


# -- archives -------------------------------------------------------------------------------------


def _archive(records, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, value in records:
            archive.writestr(name, value)
    return buffer.getvalue()


def _archives():
    good = encoded({"w": tensor()})
    records = [
        ("archive/data.pkl", good),
        ("archive/data/0", bytes(16)),
        ("archive/byteorder", b"little"),
    ]
    whole = _archive(records)
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"compressed {kind}", lambda k=kind: _pt(_archive(records, k))
    yield (
        "bomb",
        lambda: _pt(_archive([*records, ("archive/data/1", bytes(10**8))], zipfile.ZIP_DEFLATED)),
    )
    yield (
        "two roots",
        lambda: _pt(_archive([*records, ("a/data.pkl", good), ("../data.pkl", good)])),
    )
    yield "outside", lambda: _pt(_archive([*records, ("../../CANARY", b"x"), ("/CANARY", b"x")]))
    yield (
        "odd names",
        lambda: _pt(_archive([*records, (f"archive/{ESCAPES}", b""), ("a" * 60_000, b"")])),
    )
    yield "no pickle", lambda: _pt(_archive([(ESCAPES, b"x")]))
    yield (
        "many members",
        lambda: _pt(_archive([*records, *((f"archive/{i}", b"") for i in range(60_000))])),
    )
    yield "symbolic link", lambda: _pt(whole.replace(b"\x14\x03", b"\x0a\x03"))
    yield "encrypted", lambda: _pt(whole.replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0"))
    yield "big-endian", lambda: _pt(_archive([*records[:2], ("archive/byteorder", b"big")]))
    yield (
        "odd byte order",
        lambda: _pt(_archive([*records[:2], ("archive/byteorder", b"\xff" * 99)])),
    )
    yield "no storage", lambda: _pt(_archive(records[:1]))
    yield "twice", lambda: _pt(whole + whole)
    yield "in front", lambda: _pt(b"PK\x03\x04" + bytes(100) + whole)
    yield "comments", lambda: _pt(whole[:-2] + struct.pack("<H", 65535) + b"PK\x05\x06" * 16_000)
    for record in ("constants.pkl", "code/x.py", "archive_format"):
        yield (
            f"program {record}",
            lambda r=record: _pt(_archive([*records, (f"archive/{r}", good)])),
        )
    ends = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 4, 4, 2**63, 2**63)
    ends += struct.pack("<IIQI", 0x07064B50, 0, 2**63, 1)
    yield "64-bit directory", lambda: _pt(whole[:-22] + ends + whole[-22:])
    for place in range(1, 200, 3):
        for value in (0, 0x80, 0xFF):
            spoilt = whole[: len(whole) - place] + bytes([value]) + whole[len(whole) - place + 1 :]
            yield f"{value} at -{place}", lambda s=spoilt: _pt(s)


# -- streams --------------------------------------------------------------------------------------


def _streams():
    legacy = files.saved({"w": torch.zeros(4)}, _use_new_zipfile_serialization=False)
    pickled = pickle.dumps({"w": torch.zeros(4)})
    for name, content in {"legacy": legacy, "pickle": pickled}.items():
        for cut in range(1, len(content), 23):
            yield f"{name} cut at {cut}", lambda c=content, n=cut: _pt(c[:n])
        for place in range(0, len(content), 11):
            for value in (0, 0x2E, 0x51, 0x52, 0xFF):
                spoilt = content[:place] + bytes([value]) + content[place + 1 :]
                yield f"{name} {value} at {place}", lambda s=spoilt: _pt(s)
    magic = encoded(0x1950A86A20F9469CFC6C) + encoded(1001) + encoded({"little_endian": True})
    one = encoded({"w": tensor()})
    for name, keys in {
        "no list": 3,
        "numbers": [1],
        "unknown": ["9"],
        "many": ["0"] * 100_000,
    }.items():
        yield (
            f"storages {name}",
            lambda k=keys: _pt(magic + one + encoded(k) + struct.pack("<Q", 4) + bytes(16)),
        )
    yield "storage of 2**64", lambda: _pt(magic + one + encoded(["0"]) + b"\xff" * 24)
    for opcode, width in (
        (b"\x8e", "<Q"),
        (b"\x8d", "<Q"),
        (b"\x96", "<Q"),
        (b"\x95", "<Q"),
        (b"B", "<I"),
        (b"T", "<i"),
    ):
        for size in (2**31 - 1, 2**60, 2**63 - 1, 2**64 - 1):
            length = struct.pack("<Q", size)[: struct.calcsize(width)]
            yield (
                f"{opcode!r} of {size}",
                lambda o=opcode, n=length: _pt(b"\x80\x05" + o + n + b"x."),
            )
    for name, body in {
        "digits": b"I" + b"9" * 5000 + b"\n.", "many digits": b"L" + b"9" * 10**6 + b"L\n.",
        "hexadecimal": b"I0x41\n.", "float": b"F" + b"9" * 10**5 + b"\n.", "escape": b"S'\\x'\n.",
        "no line": b"c" + b"a" * 10**6, "memo": b"h\x05.", "negative memo": b"Np-1\n.", "two": b"NN.",
        "underflow": b"0.", "no mark": b"1.", "buffer": b"\x97.", "read-only": b"N\x98.", "append": b"NNa.",
        "build": b"NNb.", "odd items": b"}(Nu.", "stop": b".", "unknown": b"\xff.", "nothing": b"",
        "globals": b"c\xff\xfe\n\xff\n.", "dup": b"N" + b"2" * 10**6 + b".", "protocol 255": b"\x80\xff.",
    }.items():  # fmt: skip
        yield f"stream {name}", lambda b=body: _pt(b"\x80\x04" + b)


# -- labels ---------------------------------------------------------------------------------------


def _label_files():
    def labels(content, suffix=".pt"):
        return HostileFile(content, suffix, labels=True)

    trees = {
        "nested": _layers(1, 10, 60, list), "number": 10**5000, "texts": ["a" * 1000] * 1000,
        "call": Call("os.system", COMMAND), "array": array((10,), bytes(10), "i1"), "none": None,
        "floats": [0.5] * 10, "negative": [-1] * 10, "large": [2**70] * 10, "objects": [{}] * 10,
        "matrix": [[0]] * 10, "key": Pairs([(10**5000, [0] * 10)]), "long": WORD,
    }  # fmt: skip
    for name, tree in trees.items():
        yield f"pickle {name}", lambda t=tree: labels(encoded(t))
        yield f"zip {name}", lambda t=tree: labels(zipped(t))
        yield f"column {name}", lambda t=tree: labels(encoded({"worse_label": t}), ".pth")
        pickled = encoded(array((), [tree], "O8"))
        header = (
            np.lib.format.magic(1, 0)
            + b"v\0"
            + b"{'descr': '|O', 'fortran_order': False, 'shape': ()}".ljust(117)
            + b"\n"
        )
        yield f"npy {name}", lambda p=pickled, h=header: labels(h + p, ".npy")
    for name, (shape, stride, offset) in GEOMETRY.items():
        made = tensor(storage("0", 2, "torch.LongStorage"), offset, shape, stride)
        yield f"tensor {name}", lambda m=made: labels(zipped({"worse_label": m}))
    for name, text_of in {
        "deep": "[" * 100_000, "number": "1" * 5000, "text": json.dumps(["a" * 10**5] + [1] * 10**5),
        "nan": "[NaN]", "infinite": "[1e999]", "nested": json.dumps([[[1]] * 10]), "table": '{"a": {"b": 1}}',
    }.items():  # fmt: skip
        yield f"json {name}", lambda t=text_of: labels(t.encode(), ".json")
    for name, text_of in {
        "digits": "9" * 5000,
        "field": "a" * 10**6,
        "quotes": '"' * 1001,
        "zero": "\0",
    }.items():
        yield f"csv {name}", lambda t=text_of: labels(f"worse_label\n{t}\n".encode(), ".csv")
    for name, header in {
        "huge": "{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}",
        "negative": "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
        "object": "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
        "code": "__import__('os').system('touch CANARY')",
        "deep": "(" * 9000,
    }.items():
        body = header.encode()
        start = np.lib.format.magic(1, 0) + struct.pack("<H", len(body)) + body
        yield f"npy header {name}", lambda s=start: labels(s + bytes(80), ".npy")


FAMILIES = {
    "code": dict(_calls()),
    "sharing": dict(_sharing()),
    "work": dict(_work()),
    "names": dict(_names()),
    "numbers": dict(_numbers()),
    "parts": dict(_parts()),
    "safetensors": dict(_headers()),
    "archives": dict(_archives()),
    "streams": dict(_streams()),
    "labels": dict(_label_files()),
}
CASES = {
    f"{family}: {name}": make for family, made in FAMILIES.items() for name, make in made.items()
}
