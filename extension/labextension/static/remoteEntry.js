// samovar in JupyterLab: a launcher card that opens a notebook with the models in memory, these models in the
// status bar, and the documentation in the Help menu.
//
// Written by hand in the shape that webpack's module federation gives to an extension (`init` and `get`), so
// that it is read, packed and installed as it is, with neither a build nor Node.js.
(() => {
  const NAME = "samovar-lab";
  const STATUS_MILLISECONDS = 5000;
  const CELLS = [
    "%load_ext samovar\nimport samovar.widgets\n\nsamovar.widgets.Manager()",
    "samovar.widgets.Chat()",
  ].map((source) => ({ cell_type: "code", source, metadata: {} }));
  const START = "README.md";

  let shared = {};

  /** A module of the running application; null where it has none of that name. */
  async function module(name) {
    const [version] = Object.values(shared[name] ?? {});
    return version ? (await version.get())() : null;
  }

  async function addCard(app, launcher) {
    const { PageConfig, URLExt } = await module("@jupyterlab/coreutils");
    app.commands.addCommand("samovar:open", {
      label: "samovar",
      caption: "A notebook with the models in memory",
      execute: async ({ cwd }) => {
        const kernelName = app.serviceManager.kernelspecs.specs?.default;
        const panel = await app.commands.execute("notebook:create-new", { cwd, kernelName });
        await panel.context.ready;
        const notebook = panel.context.model.sharedModel;
        notebook.insertCells(0, CELLS);
        notebook.deleteCell(CELLS.length); // the empty one of a new notebook
        await panel.sessionContext.ready;
        await app.commands.execute("notebook:run-all-cells");
      },
    });
    launcher.add({
      command: "samovar:open",
      category: "Notebook",
      rank: 100,
      kernelIconUrl: URLExt.join(PageConfig.getOption("fullLabextensionsUrl"), NAME, "static/samovar.svg"),
    });
  }

  async function addStatus(app, statusBar) {
    const { URLExt } = await module("@jupyterlab/coreutils");
    const { ServerConnection } = await module("@jupyterlab/services");
    const { Poll } = await module("@lumino/polling");
    const { Widget } = await module("@lumino/widgets");
    const settings = app.serviceManager.serverSettings;
    // What a page asks by itself must not keep an idle server from being culled.
    const url = URLExt.join(settings.baseUrl, "v1/models/loaded") + "?no_track_activity=1";
    const item = new Widget();
    item.addClass("jp-StatusBar-TextItem");
    const show = (text, title = "") => {
      item.node.textContent = `samovar: ${text}`;
      item.node.title = title;
    };
    const nameOf = ({ model, state }) => model.split("/").pop() + (state === "ready" ? "" : ` (${state})`);
    const ask = async () => {
      const response = await ServerConnection.makeRequest(url, {}, settings);
      if (!response.ok) throw new ServerConnection.ResponseError(response);
      const models = (await response.json()).loaded_models;
      const more = models.map((model) => `${model.model}: ${model.state} on ${model.device}`);
      show(models.map(nameOf).join(", ") || "no model in memory", more.join("\n"));
    };
    const poll = new Poll({
      name: `${NAME}:status`,
      frequency: { interval: STATUS_MILLISECONDS, backoff: true, max: 12 * STATUS_MILLISECONDS },
      standby: "when-hidden",
      factory: () =>
        ask().catch((error) => {
          show("no answer", error.message);
          throw error; // for the poll to wait longer
        }),
    });
    item.disposed.connect(() => poll.dispose());
    statusBar.registerStatusItem(`${NAME}:status`, { item, align: "left", rank: 100 });
  }

  /** Opens a file of the documentation, which is installed beside this one, in a tab. */
  async function showDocument(app, rendermime, path) {
    const { PageConfig, PathExt, URLExt } = await module("@jupyterlab/coreutils");
    const { MimeModel } = await module("@jupyterlab/rendermime");
    const { MainAreaWidget } = await module("@jupyterlab/apputils");
    const docs = URLExt.join(PageConfig.getOption("fullLabextensionsUrl"), NAME, "static/docs/");
    const folder = path.slice(0, path.lastIndexOf("/") + 1);
    const resolver = {
      isLocal: (url) => !/^([a-z]+:|#|\/)/i.test(url),
      resolveUrl: async (url) => PathExt.normalize(folder + url),
      getDownloadUrl: async (url) => URLExt.join(docs, url),
    };
    const handleLink = (link, target) => {
      const open = () => !showDocument(app, rendermime, target); // false: stay on this page
      link.onclick = target.endsWith(".md") ? open : null;
    };
    const linkHandler = { handleLink };
    const content = rendermime.clone({ resolver, linkHandler }).createRenderer("text/markdown");
    const text = await (await fetch(URLExt.join(docs, path))).text();
    await content.renderModel(new MimeModel({ data: { "text/markdown": text } }));
    content.node.style.cssText = "overflow: auto; padding: 0 24px; max-width: 900px";
    content.title.label = path === START ? "samovar" : path;
    content.title.closable = true;
    app.shell.add(new MainAreaWidget({ content }), "main");
  }

  function addHelp(app, menu, rendermime) {
    app.commands.addCommand("samovar:help", {
      label: "samovar Documentation",
      execute: () => showDocument(app, rendermime, START),
    });
    menu.helpMenu.addGroup([{ command: "samovar:help" }], 1);
  }

  // What each part needs of the application, as [module, token]; where that lacks one, it has no such part.
  const PARTS = {
    card: [addCard, ["@jupyterlab/launcher", "ILauncher"]],
    status: [addStatus, ["@jupyterlab/statusbar", "IStatusBar"]],
    help: [
      addHelp,
      ["@jupyterlab/mainmenu", "IMainMenu"],
      ["@jupyterlab/rendermime", "IRenderMimeRegistry"],
      ["@jupyterlab/application", "ILabShell"], // Notebook 7 has one document to a page
    ],
  };

  async function plugin(name) {
    const [add, ...needs] = PARTS[name];
    const tokens = await Promise.all(needs.map(async ([from, token]) => (await module(from))?.[token]));
    return {
      id: `${NAME}:${name}`,
      autoStart: true,
      optional: tokens.filter(Boolean),
      activate: (app, ...given) => {
        if (given.length === needs.length && given.every(Boolean)) return add(app, ...given);
      },
    };
  }

  (window._JUPYTERLAB ??= {})[NAME] = {
    init: (scope) => {
      shared = scope;
    },
    get: async () => {
      const plugins = await Promise.all(Object.keys(PARTS).map(plugin));
      return () => ({ __esModule: true, default: plugins });
    },
  };
})();
