"""Adapters that leave and arrive: the exchange file, PEFT directories, merged weights."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.engine import AdapterRef, ExportCheckpoint, FileRef
from trainer.adapters.lora import Adapter
from trainer.engine import TrainerEngine
from trainer.exchange import agreement, outgoing
from trainer.exchange.agreement import REQUESTS, Prober, compare
from trainer.exchange.errors import ExchangeError
from trainer.exchange.exchange_file import STATE_DICT, read_exchange_file, write_exchange_file
from trainer.exchange.incoming import import_adapter
from trainer.exchange.manifest import read_manifest, write_manifest
from trainer.exchange.merged import write_merged
from trainer.exchange.outgoing import (
    Export,
    agreement_with_peft,
    export_exchange,
    export_merged,
    export_peft,
)
from trainer.exchange.peft_directory import read_peft, write_peft
from trainer.loading import LoadedModel, load
from trainer.model.checkpoint import inspect_checkpoint
from trainer.storage import read_tensors, write_tensors

ROOT = Path(__file__).parents[3]
ORACLE = ROOT / "tests/reference/oracle"
FAMILIES = ("moondream3", "moondream2")
REF = AdapterRef(finetune_id="0" * 26, step=7, rank=8, seed=0, weights=None)


@cache
def loaded(family: str) -> LoadedModel:
    return load(ORACLE / family, name=family, device="cpu", dtype="float32")


@cache
def oracle_adapter(family: str) -> Adapter:
    config = loaded(family).model.config.text
    return Adapter(config, 8, load_file(ORACLE / family / "adapter.safetensors"))


@cache
def export_of(family: str) -> Export:
    return Export.of(loaded(family), REF, oracle_adapter(family))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def exchange(folder: Path, family: str = "moondream3", **changes) -> Path:
    """An exchange file of the oracle's adapter; `changes` replace entries of its dict."""
    path = folder / "adapter.pt"
    facts = {"finetune_id": REF.finetune_id, "step": 7, "base_model": family}
    write_exchange_file(path, oracle_adapter(family), **facts)
    if changes:
        content = torch.load(path, weights_only=True)
        torch.save({**content, **changes}, path)
    return path


def renamed(tensors: dict, change) -> dict:
    return {change(name): tensor for name, tensor in tensors.items()}


def refuse_import(source: Path, match: str, *, family: str = "moondream3", **options) -> None:
    weights = source.parent / "masters.safetensors"
    with pytest.raises(ExchangeError, match=match):
        import_adapter(loaded(family), source, weights, **options)
    assert not weights.exists()


class TestExchangeFile:
    def test_passes_the_rules_of_the_readers(self, tmp_path, family):
        """Source: http-api.md 12.6 and model-facts.md 8.4, read anew here."""
        config = loaded(family).model.config.text
        content = torch.load(exchange(tmp_path, family), weights_only=True)
        assert set(content) == {STATE_DICT, "finetune_id", "step", "rank", "base_model"}
        assert [type(content[k]) for k in ("finetune_id", "step", "rank", "base_model")] == [
            str,
            int,
            int,
            str,
        ]
        tensors = content["lora_state_dict"]
        assert next(iter(tensors)) == "text_lora.dense.0.up_a"
        rank = next(t for n, t in tensors.items() if "dense" in n and "up_a" in n).shape[0]
        assert rank == content["rank"] <= 32
        assert rank % 8 == 0
        pattern = re.compile(r"(dense|moe)\.(\d+)\.(up_a|up_b|down_a|down_b)$")
        seen = set()
        for name, tensor in tensors.items():
            assert name.startswith("text_lora.")
            kind, index, factor = pattern.search(name).groups()
            seen.add((kind, int(index), factor))
            assert tensor.dtype == torch.bfloat16
            assert tensor.is_contiguous()
            assert tensor.device.type == "cpu"
            assert not tensor.requires_grad
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, "a view drags others along"
            d, f, r = config.dim, config.ff_dim, rank
            shapes = {"up_a": (r, d), "up_b": (f, r), "down_a": (r, f), "down_b": (d, r)}
            if kind == "moe":
                e, i, p = (
                    config.moe.num_experts,
                    config.moe.expert_inner_dim,
                    r // config.moe.experts_per_token,
                )
                shapes = {
                    "up_a": (e, p, d),
                    "up_b": (e, 2 * i, p),
                    "down_a": (e, p, i),
                    "down_b": (e, d, p),
                }
            assert tuple(tensor.shape) == shapes[factor], name
        num_dense = config.n_layers if config.moe is None else config.moe.start_layer
        wanted = {
            (kind, index, factor)
            for kind, count in (("dense", num_dense), ("moe", config.n_layers - num_dense))
            for index in range(count)
            for factor in ("up_a", "up_b", "down_a", "down_b")
        }
        assert seen == wanted

    def test_is_the_adapter_rounded_once(self, tmp_path, family):
        wanted = oracle_adapter(family)
        got = read_exchange_file(exchange(tmp_path, family)).adapter(
            loaded(family).model.config.text
        )
        for name, tensor in wanted.tensors.items():
            assert torch.equal(got.tensors[name], tensor.to(torch.bfloat16).float()), name

    def test_export_measures_what_rounding_moves(self, tmp_path, family):
        told = export_exchange(export_of(family), tmp_path / "a.pt")["agreement"]
        assert 0 < told["max_difference"] <= told["threshold"]
        assert told["max_difference"] < 0.01 * told["max_effect"]
        assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "a.pt.export.json"}

    def test_rounding_that_moves_a_logit_far_refuses_nothing(self, tmp_path, family, monkeypatch):
        monkeypatch.setattr(outgoing, "ROUNDED_FACTORS", 0.0)
        monkeypatch.setitem(agreement.ROUNDING, torch.float32, 0.0)  # any rounding is too much
        told = export_exchange(export_of(family), tmp_path / "a.pt")["agreement"]
        assert told["max_difference"] > told["threshold"]
        assert (tmp_path / "a.pt").is_file()

    def test_factors_that_are_no_numbers_are_not_written(self, tmp_path, family):
        whole = export_of(family)
        tensors = {
            name: torch.full_like(tensor, math.inf)
            for name, tensor in whole.adapter.tensors.items()
        }
        config = loaded(family).model.config.text
        endless = replace(whole, adapter=Adapter(config, whole.adapter.rank, tensors))
        with pytest.raises(ExchangeError, match="not finite"):
            export_exchange(endless, tmp_path / "a.pt")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_does_something_else_is_not_kept(self, tmp_path, monkeypatch):
        real = outgoing.write_exchange_file

        def does_nothing(path, adapter, **facts):
            zeros = {name: torch.zeros_like(t) for name, t in adapter.tensors.items()}
            config = loaded("moondream3").model.config.text
            return real(path, Adapter(config, adapter.rank, zeros), **facts)

        monkeypatch.setattr(outgoing, "write_exchange_file", does_nothing)
        with pytest.raises(ExchangeError, match=r"was not written as it is"):
            export_exchange(export_of("moondream3"), tmp_path / "a.pt")
        assert list(tmp_path.iterdir()) == []


class TestPeft:
    def test_applies_with_equal_logits(self, tmp_path, family):
        """By PEFT itself, experts included; float32."""
        directory = tmp_path / "peft"
        manifest = export_peft(export_of(family), directory)
        assert manifest["agreement"]["max_difference"] <= 1e-5
        assert manifest["agreement"]["max_effect"] > 1
        assert read_manifest(directory, directory / "adapter_model.safetensors") == manifest
        read_back = read_peft(directory, loaded(family).model.config.text)
        for name, tensor in oracle_adapter(family).tensors.items():
            assert torch.equal(read_back.tensors[name], tensor), name

    def test_applies_by_a_stranger(self, tmp_path):
        """A fresh process that knows our base class and PEFT, and nothing of exports."""
        directory = tmp_path / "peft"
        export_peft(export_of("moondream3"), directory)
        script = tmp_path / "stranger.py"
        script.write_text(
            "import sys, torch\n"
            "from peft import PeftModel\n"
            "from trainer.model.checkpoint import load_model\n"
            "base, adapter, out = sys.argv[1:]\n"
            "model = PeftModel.from_pretrained(load_model(base), adapter).eval()\n"
            "ids = torch.arange(12)[None] + 40\n"
            "with torch.no_grad():\n"
            "    text = model.get_base_model().text\n"
            "    hidden = text(text.embed_tokens(ids), positions_BT=torch.arange(12)[None])\n"
            "    torch.save(text.logits(hidden), out)\n"
        )
        out = tmp_path / "logits.pt"
        subprocess.run(
            [sys.executable, script, ORACLE / "moondream3", directory, out],
            check=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )
        text = loaded("moondream3").model.text
        ids = torch.arange(12)[None] + 40
        with torch.no_grad():
            hidden = text(
                text.embed_tokens(ids),
                positions_BT=torch.arange(12)[None],
                adapter=oracle_adapter("moondream3"),
            )
            difference = (torch.load(out, weights_only=True) - text.logits(hidden)).abs().max()
        assert difference <= 1e-5

    @pytest.mark.parametrize(("alpha", "rslora"), [(2, False), (1, False), (1, True)])
    def test_a_scale_is_folded_in(self, tmp_path, alpha, rslora):
        """Experts have rank 2 here; dense layers keep the scale of their pattern."""
        model = loaded("moondream3")
        directory = tmp_path / "peft"
        write_peft(
            directory,
            oracle_adapter("moondream3"),
            model.model.config.text,
            base_model="moondream3",
        )
        path = directory / "adapter_config.json"
        said = json.loads(path.read_text())
        if rslora:
            said["alpha_pattern"] = {}
        path.write_text(json.dumps({**said, "lora_alpha": alpha, "use_rslora": rslora}))
        imported = import_adapter(model, directory, tmp_path / "masters.safetensors")
        assert imported.manifest["agreement"]["max_difference"] <= 1e-5
        stored = read_tensors(imported.weights)
        wanted = oracle_adapter("moondream3").tensors["text_lora.moe.0.up_b"]
        scale = alpha / (math.sqrt(2) if rslora else 2)
        assert torch.allclose(stored["text_lora.moe.0.up_b"], wanted * scale, rtol=1e-6)

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"use_dora": True}, "use_dora"),
            ({"bias": "all"}, "only plain LoRA"),
            ({"peft_type": "IA3"}, "no config of a LoRA adapter"),
            ({"r": "8"}, "r is '8', wanted a number above 0"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ],
    )
    def test_what_an_adapter_cannot_hold_is_refused(self, tmp_path, changes, match):
        directory = tmp_path / "peft"
        config = loaded("moondream3").model.config.text
        write_peft(directory, oracle_adapter("moondream3"), config, base_model="moondream3")
        path = directory / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        refuse_import(directory, match)

    def test_names_of_another_wrapper_are_refused(self, tmp_path):
        directory = tmp_path / "peft"
        config = loaded("moondream3").model.config.text
        write_peft(directory, oracle_adapter("moondream3"), config, base_model="moondream3")
        weights = directory / "adapter_model.safetensors"
        save_file(renamed(load_file(weights), lambda n: n.replace("model.text", "text")), weights)
        refuse_import(directory, r"adapts no dense MLP .* wanted base_model\.model\.model\.text")

    def test_one_layer_too_few_is_refused(self, tmp_path):
        directory = tmp_path / "peft"
        config = loaded("moondream3").model.config.text
        write_peft(directory, oracle_adapter("moondream3"), config, base_model="moondream3")
        weights = directory / "adapter_model.safetensors"
        kept = {n: t for n, t in load_file(weights).items() if "blocks.3.mlp.fc2" not in n}
        save_file(kept, weights)
        refuse_import(directory, r"2 tensors .*\n  missing text_lora\.moe\.1\.down_a")


class TestMerged:
    def test_is_a_model_of_its_own(self, tmp_path, family):
        source = ORACLE / family
        fresh = load(source, name=family, device="cpu", dtype="float32")
        export = Export.of(fresh, REF, oracle_adapter(family))
        directory = tmp_path / "merged"
        manifest = export_merged(
            export, source, directory, dtype=torch.float32, tokenizer=source / "tokenizer.json"
        )
        assert manifest["agreement"]["max_difference"] < 5e-5
        merged = load(directory, name="merged", device="cpu", dtype="float32")
        got = Prober(merged.model, merged.language).ask(None)
        base = Prober(loaded(family).model, loaded(family).language).ask(None)
        measured = compare(got, export.wanted, base, dtype=torch.float32)
        assert measured.holds
        assert measured.max_effect > 1

    def test_shards_have_an_index(self, tmp_path):
        source = ORACLE / "moondream3"
        checkpoint = inspect_checkpoint(source)
        write_merged(
            tmp_path / "m",
            checkpoint,
            oracle_adapter("moondream3"),
            dtype=torch.bfloat16,
            tokenizer=source / "tokenizer.json",
            max_shard_bytes=1_000_000,
        )
        shards = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
        assert len(shards) > 2
        assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
        assert set(inspect_checkpoint(tmp_path / "m").recipes) == set(checkpoint.recipes)

    def test_an_existing_directory_is_left_alone(self, tmp_path):
        (tmp_path / "here").mkdir()
        with pytest.raises(ExchangeError, match="exists already"):
            export_peft(export_of("moondream3"), tmp_path / "here")
        assert list((tmp_path / "here").iterdir()) == []


class TestImport:
    def test_exchange_file_becomes_masters(self, tmp_path, family):
        source = exchange(tmp_path, family)
        imported = import_adapter(loaded(family), source, tmp_path / "masters.safetensors")
        assert imported.rank == 8
        assert imported.manifest["agreement"]["max_difference"] == 0
        assert imported.manifest["agreement"]["max_effect"] > 1
        stored = read_tensors(imported.weights)
        assert {t.dtype for t in stored.values()} == {torch.float32}
        wanted = oracle_adapter(family).tensors["text_lora.dense.0.up_b"]
        assert torch.equal(stored["text_lora.dense.0.up_b"], wanted.to(torch.bfloat16).float())

    def test_names_that_stand_twice_are_taken(self, tmp_path):
        tensors = torch.load(exchange(tmp_path), weights_only=True)[STATE_DICT]
        twice = {**renamed(tensors, lambda n: n.replace("text_lora.", "_text.")), **tensors}
        source = exchange(tmp_path / "twice", **{STATE_DICT: twice})
        assert import_adapter(loaded("moondream3"), source, tmp_path / "m.safetensors").rank == 8

    def test_a_bare_file_without_facts_is_taken(self, tmp_path):
        content = torch.load(exchange(tmp_path), weights_only=True)
        source = tmp_path / "bare.pt"
        torch.save({STATE_DICT: content[STATE_DICT]}, source)
        assert import_adapter(loaded("moondream3"), source, tmp_path / "m.safetensors").rank == 8

    def test_the_file_must_be_the_one_of_its_manifest(self, tmp_path):
        source = tmp_path / "a.pt"
        export_exchange(export_of("moondream3"), source)
        imported = import_adapter(loaded("moondream3"), source, tmp_path / "m.safetensors")
        assert imported.manifest["source"]["kind"] == "exchange"
        source.write_bytes(source.read_bytes() + b"\0")
        refuse_import(source, r"a\.pt is not what .* was written for")

    def test_a_base_that_computes_something_else_is_noticed(self, tmp_path):
        """The digest is the same by accident or by force; the logits are not."""
        source = tmp_path / "a.pt"
        manifest = export_exchange(export_of("moondream3"), source)
        manifest["largest_logits"][0]["logit"][0] += 1.0
        write_manifest(source, manifest)
        refuse_import(source, r"logits differ by (1|0\.99\d) from those noted")

    def test_another_base_is_refused_unless_asked_for(self, tmp_path):
        source = exchange(tmp_path, base_model="moondream3.1")
        refuse_import(source, r"belongs to base model 'moondream3\.1'; loaded is 'moondream3'")
        taken = import_adapter(
            loaded("moondream3"), source, tmp_path / "m.safetensors", any_base=True
        )
        assert taken.rank == 8

    def test_a_vendor_in_the_name_is_no_other_base(self, tmp_path):
        source = exchange(tmp_path, base_model="moondream/Moondream3")
        assert import_adapter(loaded("moondream3"), source, tmp_path / "m.safetensors").rank == 8

    def test_another_revision_is_refused(self, tmp_path):
        directory = tmp_path / "peft"
        export_peft(export_of("moondream3"), directory)
        path = directory / "export.json"
        manifest = json.loads(path.read_text())
        manifest["base_model"]["digest"] = "f" * 64
        path.write_text(json.dumps(manifest))
        refuse_import(directory, r"another model or another revision")

    def test_another_family_is_refused_by_name_and_shape(self, tmp_path):
        source = exchange(tmp_path, "moondream2", base_model="moondream3")
        refuse_import(source, r"unexpected text_lora\.dense\.2\.up_a")

    def test_other_prefixes_are_refused(self, tmp_path):
        tensors = torch.load(exchange(tmp_path), weights_only=True)[STATE_DICT]
        wrong = renamed(tensors, lambda n: n.replace("text_lora.", "lora."))
        refuse_import(
            exchange(tmp_path / "x", **{STATE_DICT: wrong}), "whose names begin with text"
        )

    def test_a_rank_that_it_does_not_have_is_refused(self, tmp_path):
        refuse_import(exchange(tmp_path, rank=16), "says rank 16, its tensors have rank 8")

    def test_numbers_that_are_none_are_refused(self, tmp_path):
        tensors = torch.load(exchange(tmp_path), weights_only=True)[STATE_DICT]
        tensors["text_lora.moe.0.up_a"][0, 0, 0] = torch.nan
        source = exchange(tmp_path / "x", **{STATE_DICT: tensors})
        refuse_import(source, r"text_lora\.moe\.0\.up_a holds values that are not finite")

    def test_a_pickle_is_refused_and_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "sprung",))

        source = tmp_path / "trap.pt"
        source.write_bytes(pickle.dumps({STATE_DICT: Trap()}))
        refuse_import(source, "cannot be read")
        torch.save({STATE_DICT: Trap()}, source)
        refuse_import(source, "cannot be read")
        assert not (tmp_path / "sprung").exists()

    def test_a_file_cut_short_is_refused(self, tmp_path):
        source = exchange(tmp_path)
        source.write_bytes(source.read_bytes()[:5000])
        refuse_import(source, "cannot be read .*; fetch it again")

    def test_a_model_directory_is_not_an_adapter(self, tmp_path):
        shutil.copytree(ORACLE / "moondream3", tmp_path / "model")
        refuse_import(tmp_path / "model", r"serve them with --model")

    def test_nothing_there(self, tmp_path):
        refuse_import(tmp_path / "nowhere", "does not exist")


def test_the_cli_reports_what_cannot_be(tmp_path):
    command = [sys.executable, "-m", "trainer", "import"]
    options = {
        "model": ORACLE / "moondream3",
        "models-dir": tmp_path,
        "source": tmp_path / "no",
        "weights-path": "w",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    ended = subprocess.run(
        [*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1] == (f"moontune: {tmp_path / 'no'} does not exist.")


def test_the_fixed_questions_reach_every_head():
    logits = Prober(loaded("moondream3").model, loaded("moondream3").language).ask(None)
    config = loaded("moondream3").model.config
    assert len(logits) == len(REQUESTS)
    widths = {tensor.shape[-1] for tensor in logits}
    assert widths == {config.text.vocab_size + 1024 + 2048}


def test_the_engine_exports_what_a_row_names(tmp_path):
    masters = write_tensors(tmp_path / "w.safetensors", oracle_adapter("moondream3").tensors, {})
    ref = AdapterRef(finetune_id="0" * 26, step=7, rank=8, seed=0, weights=masters)
    engine = TrainerEngine(loaded("moondream3"))
    exported = engine.export_checkpoint(
        ExportCheckpoint(adapter=ref, path=str(tmp_path / "out.pt"))
    )
    assert exported.file == FileRef(
        path=str(tmp_path / "out.pt"),
        digest=hashlib.sha256((tmp_path / "out.pt").read_bytes()).hexdigest(),
        num_bytes=(tmp_path / "out.pt").stat().st_size,
    )
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (content["step"], content["rank"], content["base_model"]) == (7, 8, "moondream3")


class TestAgreement:
    """Faults that logits in bfloat16 would let pass, and small adapters that they would refuse."""

    @staticmethod
    def sabotaged(adapter: Adapter, fault: str) -> Adapter:
        tensors = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
        for name, tensor in tensors.items():
            if fault == "no experts" and ".moe." in name and name.endswith("_b"):
                tensor.zero_()
            elif fault == "rows swapped" and name == "text_lora.moe.0.up_b":
                tensors[name] = torch.cat(tensor.chunk(2, dim=1)[::-1], dim=1)
            elif fault == "no layer 3" and ".moe.1." in name and name.endswith("_b"):
                tensor.zero_()
            elif fault == "one expert" and name == "text_lora.moe.1.down_b":
                tensor[5].zero_()
            elif fault == "scale" and name.endswith("up_b"):
                tensor.mul_(1.1)
        return Adapter(loaded("moondream3").model.config.text, adapter.rank, tensors)

    @staticmethod
    def scaled(adapter: Adapter, factor: float) -> Adapter:
        tensors = {
            name: tensor * (factor if name.endswith("_b") else 1.0)
            for name, tensor in adapter.tensors.items()
        }
        return Adapter(loaded("moondream3").model.config.text, adapter.rank, tensors)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize(
        "fault", ["no experts", "rows swapped", "no layer 3", "one expert", "scale"]
    )
    def test_faults_of_a_peft_directory_are_noticed(self, tmp_path, dtype, fault):
        model = in_dtype(dtype)
        wanted = oracle_adapter("moondream3")
        write_peft(tmp_path, self.sabotaged(wanted, fault), model.model.config.text, base_model="m")
        found = agreement_with_peft(Prober(model.model, model.language), wanted, tmp_path)
        assert not found.holds
        assert found.lost_share > 0.01

    @pytest.mark.parametrize("factor", [1.0, 0.1, 0.01, 1e-4])
    def test_a_small_adapter_travels_in_bfloat16(self, tmp_path, factor):
        model = in_dtype("bfloat16")
        wanted = self.scaled(oracle_adapter("moondream3"), factor)
        write_peft(tmp_path, wanted, model.model.config.text, base_model="m")
        found = agreement_with_peft(Prober(model.model, model.language), wanted, tmp_path)
        assert found.holds
        assert found.lost_share < 1e-8

    @pytest.mark.parametrize(("factor", "is_lost"), [(1.0, False), (0.1, False), (1e-3, True)])
    def test_a_bfloat16_merge_says_when_it_loses_the_adapter(self, tmp_path, factor, is_lost):
        source = ORACLE / "moondream3"
        model = load(source, name="moondream3", device="cpu", dtype="bfloat16")
        adapter = self.scaled(oracle_adapter("moondream3"), factor)
        export = Export.of(model, REF, adapter)
        words = {"dtype": torch.bfloat16, "tokenizer": source / "tokenizer.json"}
        if is_lost:
            with pytest.raises(ExchangeError, match=r"is lost.*--dtype float32 keeps more"):
                export_merged(export, source, tmp_path / "m", **words)
            assert list(tmp_path.iterdir()) == []
        else:
            manifest = export_merged(export, source, tmp_path / "m", **words)
            assert 0 < manifest["agreement"]["lost_share"] < 0.5

    def test_what_is_no_number_does_not_agree(self):
        wanted = [torch.zeros(2, 3), torch.ones(2, 3)]
        got = [torch.zeros(2, 3), torch.full((2, 3), torch.nan)]
        assert not compare(got, wanted, wanted, dtype=torch.float32).holds


@cache
def in_dtype(dtype: str) -> LoadedModel:
    return load(ORACLE / "moondream3", name="moondream3", device="cpu", dtype=dtype)


class TestPeftFromElsewhere:
    """A directory without our manifest, as anyone may hand it over."""

    @staticmethod
    def written(folder: Path, **changes) -> Path:
        directory = folder / "peft"
        config = loaded("moondream3").model.config.text
        write_peft(directory, oracle_adapter("moondream3"), config, base_model="moondream3")
        path = directory / "adapter_config.json"
        said = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in said.items() if v is not ...}, default=str))
        return directory

    def test_of_another_base(self, tmp_path):
        directory = self.written(tmp_path, base_model_name_or_path="vikhyatk/moondream2")
        refuse_import(directory, "belongs to base model 'vikhyatk/moondream2'")
        options = {"any_base": True}
        assert (
            import_adapter(loaded("moondream3"), directory, tmp_path / "m.st", **options).rank == 8
        )

    @pytest.mark.parametrize("rank", [4, 40])
    def test_of_a_rank_that_no_finetune_has(self, tmp_path, rank):
        model = loaded("moondream3")
        adapter = Adapter.fresh(model.model.config.text, rank, seed=1)
        write_peft(tmp_path / "peft", adapter, model.model.config.text, base_model="moondream3")
        refuse_import(tmp_path / "peft", f"has rank {rank}, wanted 8, 16, 24 or 32")

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"r": 0}, "r is 0, wanted a number above 0"),
            ({"lora_alpha": "8"}, "lora_alpha is '8'"),
            ({"rank_pattern": [1]}, "rank_pattern is"),
            ({"rank_pattern": {"(": 8}}, "no pattern"),
            ({"rank_pattern": {"fc1": None}}, "wanted a number above 0"),
            ({"use_new_magic": True}, "use_new_magic"),
        ],
    )
    def test_with_a_config_that_makes_no_sense(self, tmp_path, changes, match):
        refuse_import(self.written(tmp_path, **changes), match)

    def test_facts_of_an_exchange_file_that_make_no_sense_are_left_out(self, tmp_path):
        source = exchange(tmp_path, step="latest", finetune_id=None)
        imported = import_adapter(loaded("moondream3"), source, tmp_path / "m.safetensors")
        assert (imported.manifest["step"], imported.manifest["finetune_id"]) == (0, "")


def test_a_download_keeps_its_manifest_under_any_name(tmp_path):
    export_exchange(export_of("moondream3"), tmp_path / "00000007-abc.exchange.pt")
    for name in ("00000007-abc.exchange.pt", "00000007-abc.exchange.pt.export.json"):
        (tmp_path / name).rename(tmp_path / name.replace("00000007-abc.exchange", "mine"))
    imported = import_adapter(
        loaded("moondream3"), tmp_path / "mine.pt", tmp_path / "m.safetensors"
    )
    assert imported.manifest["source"]["step"] == 7
