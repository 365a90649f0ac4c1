/** The page of a shared conversation: shows what a link was made for, to anybody who has it. */

import { loadLanguage } from "./setup";
import "./style/shared.css";

import { render } from "preact";

import { SharedPage } from "./shared_page";

void loadLanguage().then(() => render(<SharedPage />, document.getElementById("page") as HTMLElement));
