"""DGL imports whatever build is there, after anybody's failure, quietly, or says why not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from deepchem_mmsa.layers import dgl_backend


def run_python(code: str, home, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", **environment}
    env.pop("DGLBACKEND", None)
    env.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("before", ["", "try:\n    import dgl\nexcept Exception:\n    pass\n"])
def test_import_works_quietly_also_after_a_failed_one(tmp_path, before):
    code = before + (
        "import sys\n"
        "from deepchem_mmsa.layers.dgl_backend import import_dgl, import_dgllife\n"
        "sys.stdout.write('marker'); sys.stderr.write('marker')\n"
        "dgl = import_dgl()\n"
        "assert import_dgl() is dgl\n"
        "import_dgllife()\n"
        "g = dgl.add_self_loop(dgl.graph(([0, 1], [1, 0]), num_nodes=3))\n"
        "import torch, dgl.nn.pytorch\n"
        "x = torch.ones(3, 2, requires_grad=True)\n"
        "dgl.ops.gspmm(g, 'copy_lhs', 'sum', x, None).sum().backward()\n"
        "assert x.grad.tolist() == [[2, 2], [2, 2], [1, 1]]\n"
        "assert dgl.backend.backend_name == 'pytorch'\n"
        "assert 'dgl.nn' in sys.modules and dgl.nn.pytorch.GraphConv\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rsplit("marker")[-1] == ""
    assert done.stderr.rsplit("marker")[-1] == ""
    if not before:
        assert not (tmp_path / ".dgl").exists()


@pytest.mark.parametrize(
    "content, cause",
    [
        ("raise OSError('libcudart.so.11.0: cannot open shared object file')\n", "libcudart"),
        ("import a_module_that_is_not_there\n", "a_module_that_is_not_there"),
    ],
)
def test_broken_dgl_gives_one_sentence_with_the_remedy(tmp_path, content, cause):
    package = tmp_path / "dgl"
    package.mkdir()
    (package / "__init__.py").write_text(content)
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from deepchem_mmsa.layers.dgl_backend import import_dgl, dgl_supports\n"
        "try:\n    import_dgl()\n"
        "except ImportError as error:\n    print(error)\n"
        "import torch\n"
        "from deepchem_mmsa.layers.message_passing import EdgeList, aggregate\n"
        "one = torch.tensor([0])\n"
        "x = torch.ones(1, 1, requires_grad=True)\n"
        "print(aggregate(EdgeList(one, one, 1), x).item())\n"
        "print('maximum', file=sys.stderr)\n"
        "print(aggregate(EdgeList(one, one, 1), x, reduce='max').item())\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    message, *values = done.stdout.strip().splitlines()
    assert cause in message
    assert "pip install" in message
    assert values == ["1.0", "1.0"]  # our own encoders go on with torch
    before, after = done.stderr.split("maximum")
    assert "aggregated by torch" not in before  # plain sums never ask for DGL
    assert "aggregated by torch" in after


def test_missing_dgl_gives_the_remedy(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['dgl'] = None\n"
        "from deepchem_mmsa.layers.dgl_backend import import_dgl\n"
        "try:\n    import_dgl()\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip install 'dgl>=1.1.3' packaging" in done.stdout


def test_missing_dgllife_gives_the_remedy(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['dgllife'] = None\n"
        "from deepchem_mmsa.layers.dgl_backend import import_dgllife\n"
        "try:\n    import_dgllife()\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip install 'dgllife>=0.3.2'" in done.stdout


def test_layers_import_neither_dgl_nor_rdkit_nor_deepchem(tmp_path):
    code = (
        "import sys\n"
        "import deepchem_mmsa.layers.graph_encoder, deepchem_mmsa.layers.image_encoder\n"
        "import deepchem_mmsa.layers.geometry_encoder\n"
        "heavy = {'dgl', 'dgllife', 'rdkit', 'deepchem'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_supported_devices():
    assert dgl_backend.dgl_supports("cpu")
    assert not dgl_backend.dgl_supports(torch.device("meta"))
    if not torch.cuda.is_available():
        assert not dgl_backend.dgl_supports("cuda:0")
